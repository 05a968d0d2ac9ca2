"""Studies: from a spec to the steps that answer it, and the rows that those steps fill."""
