"""Register a GGUF with Ollama, over its HTTP API."""

from .checks import OllamaCheck
from .client import Ollama, address
from .modelfile import OllamaSettings, Origin, place_for, read_modelfile, settings_for, write_modelfile
from .register import RegistrationResult, default_name, register, require_ollama, require_place_for

__all__ = [
    "Ollama",
    "OllamaCheck",
    "OllamaSettings",
    "Origin",
    "RegistrationResult",
    "address",
    "default_name",
    "place_for",
    "read_modelfile",
    "register",
    "require_ollama",
    "require_place_for",
    "settings_for",
    "write_modelfile",
]
