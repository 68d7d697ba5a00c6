"""The `ingest_tars` node: foreign WebDataset tars adopted in place."""
