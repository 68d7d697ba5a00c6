"""Nodes from curated documents to a trained model: materialize, tokenize, plan, pack, train, report."""
