"""Rows of results, collected from the store and checked against each other."""
