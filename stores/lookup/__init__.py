"""Lookup of records by id, URL or content digest without a scan."""
