"""Nodes that score documents with a user's model: Python code, a fastText file, or an endpoint."""
