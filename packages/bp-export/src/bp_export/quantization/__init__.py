"""A float GGUF made smaller: which tensor gets which number format, the importance matrix, and ggml's own packing."""
