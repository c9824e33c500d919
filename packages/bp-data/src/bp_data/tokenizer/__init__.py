"""A model's vocabulary and chat template, without transformers."""
