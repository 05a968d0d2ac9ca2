"""What every other package stands on: the registry, files, seeds, the environment."""
