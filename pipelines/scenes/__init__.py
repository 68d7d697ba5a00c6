"""Generator of verifiable visual tasks: image and video files with annotations of everything drawn on them."""
