"""A spec compiled to steps, rows and budget."""
