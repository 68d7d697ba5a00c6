"""Which token ids is this text?"""
