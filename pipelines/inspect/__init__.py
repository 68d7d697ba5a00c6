"""Looking at what was made: reads artefacts only, never writes into them."""
