"""Faults put into real runs of a tiny real model, and what is left of them. `tests/campaign.py` runs them all."""
