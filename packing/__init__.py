"""Which samples share a pack, in which order, and what does a batch look like?"""
