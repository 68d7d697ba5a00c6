"""Deletion of named records from every store of a folder."""
