"""What `prune` and `pt.compress` do: a model pruned and fine-tuned, measured, searched within a budget, exported."""
