"""llama.cpp in a process of its own: tokens, logits and text, a server, and the quantiser."""
