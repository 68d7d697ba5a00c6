"""Training: packs become weights. One loop, Muon, checkpoints, evaluation."""
