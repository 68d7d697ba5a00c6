"""Tokenization: text, documents and conversations to token ids and back."""
