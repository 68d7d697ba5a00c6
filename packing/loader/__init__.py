"""The loader: global batches off packs stores, for any number of ranks."""
