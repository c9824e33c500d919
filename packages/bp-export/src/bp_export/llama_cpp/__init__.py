"""llama.cpp in a process of its own: tokens, logits and text, and a server."""
