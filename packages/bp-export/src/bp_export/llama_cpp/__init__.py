"""llama.cpp in a child process: engine and server."""
