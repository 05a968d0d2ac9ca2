"""The page of `compare`: several studies read together."""
