"""Where `manifests/compiled.py` is found by the rooms that import stores."""

from manifests.compiled import BYTES_2D, READ_BYTES_2D, compiled

__all__ = ["BYTES_2D", "READ_BYTES_2D", "compiled"]
