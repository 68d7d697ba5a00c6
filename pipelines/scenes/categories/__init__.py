"""The categories of scenes: each function `SceneRng -> Scene` draws one scene of its category."""
