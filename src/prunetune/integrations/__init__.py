"""What `apply_mask` cannot do in other people's loops: prune at a given epoch, keep masks in checkpoints."""
