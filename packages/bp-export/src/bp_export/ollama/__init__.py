"""A GGUF in Ollama, over its HTTP interface."""

from .checks import Seen
from .client import Ollama, address
from .modelfile import Origin, Setup, place_for, read_modelfile, setup_of, write_modelfile
from .register import Registered, default_name, register, require_ollama, require_place_for

__all__ = [
    "Ollama",
    "Origin",
    "Registered",
    "Seen",
    "Setup",
    "address",
    "default_name",
    "place_for",
    "read_modelfile",
    "register",
    "require_ollama",
    "require_place_for",
    "setup_of",
    "write_modelfile",
]
