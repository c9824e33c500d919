"""llama.cpp in a child process: engine, server and quantiser."""
