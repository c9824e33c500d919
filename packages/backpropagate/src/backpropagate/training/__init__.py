"""Settings and data → a plan; an opened model → a published adapter; several processes."""
