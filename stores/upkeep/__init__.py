"""Maintenance of stores: log, verify, repair, garbage collection, copies, lookup index, run lock."""
