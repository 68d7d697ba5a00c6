"""Nodes from curated documents to a trained model: materialise, tokenise, plan, pack, train, report."""
