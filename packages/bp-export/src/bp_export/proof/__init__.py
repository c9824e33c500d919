"""The exported file held against the trained model."""
