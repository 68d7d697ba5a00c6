"""Nodes that make new documents: `synthesise` by a model, `render` by a browser, `augment` by changed pictures."""
