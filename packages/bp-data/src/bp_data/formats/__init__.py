"""Rows of any shape → conversations, preferences and rated answers; and back."""
