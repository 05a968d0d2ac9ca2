"""The steps of a study: what each of them is, and the graph that they make."""
