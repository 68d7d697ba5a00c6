"""Annotations of documents: captions, boxes, printed text, events, conversations, problems."""
