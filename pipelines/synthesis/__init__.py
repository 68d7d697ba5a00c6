"""Nodes that make new documents: `synthesize` by a model, `render` by a browser, `augment` by changed pictures."""
