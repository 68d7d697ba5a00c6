"""Packing: plans of which samples share a pack, packs made from plans, and the loader of global batches."""
