"""Pipelines: the nodes that turn raw data into shards, plans and packs, and the DAG that runs them."""
