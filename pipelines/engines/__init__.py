"""Engines: processes on this machine, a Ray cluster or a Dask cluster, which do the units of a node side by side."""
