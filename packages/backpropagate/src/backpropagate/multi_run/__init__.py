"""Stages: their data, their training, and the report of what was forgotten."""
