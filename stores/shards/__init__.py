"""Records in tar shards: kinds, layout, index and readers."""
