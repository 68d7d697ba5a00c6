"""Which bytes exist, and how are they opened safely?"""
