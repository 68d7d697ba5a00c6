"""Roots, unit lists and directories: the files that a commit publishes."""
