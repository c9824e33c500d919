"""Weights in files: safetensors, adapters, merging, and what MLX wrote."""
