"""The command line: verbs and options, progress, and what a plan says."""
