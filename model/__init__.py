"""What is computed from a batch?"""
