"""One module per category of generated scene."""
