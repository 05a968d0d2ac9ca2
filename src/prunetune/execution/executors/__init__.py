"""Where workers run: this machine, Ray, Slurm."""
