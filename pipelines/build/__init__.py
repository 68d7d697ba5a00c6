"""Nodes from curated documents to samples, plans, packs, vocabularies and trained models."""
