"""The planner: which pieces share a pack, and in which order packs are trained."""
