"""Continual LoRA: the adapters of many stages become one, and a matrix shows what was forgotten."""
