"""Which records say the same? Decision columns, never copies."""
