"""The `transform` node and its ops, which change text."""
