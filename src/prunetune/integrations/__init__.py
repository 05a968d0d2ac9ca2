"""What `hold` alone cannot do inside other people's loops: prune when the time has come, keep masks in checkpoints."""
