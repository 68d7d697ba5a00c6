"""Scores that a user's model gives: of his own code, of a fastText file, of an endpoint."""
