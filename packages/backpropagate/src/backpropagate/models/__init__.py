"""From a name to a folder; where what was trained lies; what a base cannot be trained with."""
