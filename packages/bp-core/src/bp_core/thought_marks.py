"""How thoughts stand in text: the tags around one, and the switch of chat templates that leaves it out."""

OPEN, CLOSE = "<think>", "</think>"
SWITCH = "enable_thinking"  # what templates and servers call it
