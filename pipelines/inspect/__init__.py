"""Inspection of runs and stores. It reads artefacts only, and never imports the nodes that made them."""
