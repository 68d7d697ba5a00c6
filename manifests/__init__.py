"""What travels between rooms? Records, geometry, schedules, manifests, errors and the run log."""
