"""The model: MoonViT-3D, projector and Kimi K2 MoE, from a batch to losses."""
