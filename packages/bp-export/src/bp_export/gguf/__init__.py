"""GGUF read and written: architectures, tensors, vocabulary and pre-tokenizers."""
