"""Inspection of runs and stores. It reads artifacts only, and never imports the nodes that made them."""
