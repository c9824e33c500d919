"""Read and write GGUF: architectures, tensors, vocabulary, pre-tokenizers."""
