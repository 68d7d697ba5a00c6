"""File formats to text, rows, pages and media."""
