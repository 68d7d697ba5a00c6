"""Nodes that find duplicates and evaluation items. They write decision columns, never copies."""
