"""Types and arithmetic that travel between rooms: records, geometry, schedules, manifests, errors and the run log."""
