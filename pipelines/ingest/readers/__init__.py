"""Readers of an ingested folder: one module per group of formats, each with a function `documents(item, context)`."""
