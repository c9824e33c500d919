"""What was trained → bp_export, with the trained model as its reference; and talking to a model."""
