"""Evaluation of finished weights; nothing here trains."""
