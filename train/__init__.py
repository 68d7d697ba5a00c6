"""How do shards become weights?"""
