"""How does raw data become shards?"""
