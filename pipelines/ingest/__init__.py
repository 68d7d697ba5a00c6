"""Raw data to documents, one kind of node per source."""
