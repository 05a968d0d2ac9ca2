"""The page of `prune`: accuracy against size and time."""
