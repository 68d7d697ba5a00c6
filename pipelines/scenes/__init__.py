"""Verifiable visual tasks, drawn: ordinary media files with JSON lines that say exactly what is on them."""
