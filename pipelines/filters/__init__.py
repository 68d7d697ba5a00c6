"""The `filter` node and its ops, and views that drop documents by a share or a vote."""
