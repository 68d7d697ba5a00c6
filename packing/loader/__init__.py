"""Loader of packs stores: global batches for any number of ranks."""
