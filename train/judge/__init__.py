"""What was learnt? Measurements of finished weights; nothing here trains."""
