"""Which rows, which model; evaluate, compare, lm-evaluation-harness."""
