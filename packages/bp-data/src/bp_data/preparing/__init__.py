"""Rows → arrays, cached: examples, their packing, what is held out, and batches."""
