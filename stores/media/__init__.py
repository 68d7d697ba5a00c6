"""Decoding of images and videos, and the sandbox process that untrusted bytes are decoded in."""
