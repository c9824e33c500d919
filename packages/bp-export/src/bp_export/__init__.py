"""Adapter → merged weights → GGUF → quantised → proven. Names are loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Engine, GeneratedTokens
    from .facts import GgufFacts, gguf_facts
    from .merge import write_merged
    from .parity import Parity
    from .pipeline import Export, export
    from .proof import Subject, prove
    from .quantization import quantize
    from .unpack import unpack_gguf
    from .verification import verify

__all__ = [
    "Engine",
    "Export",
    "GeneratedTokens",
    "GgufFacts",
    "Parity",
    "Subject",
    "export",
    "gguf_facts",
    "prove",
    "quantize",
    "unpack_gguf",
    "verify",
    "write_merged",
]
_HOMES = {
    **dict.fromkeys(("Engine", "GeneratedTokens"), "engine"),
    **dict.fromkeys(("GgufFacts", "gguf_facts"), "facts"),
    "Parity": "parity",
    **dict.fromkeys(("Export", "export"), "pipeline"),
    **dict.fromkeys(("Subject", "prove"), "proof"),
    "quantize": "quantization",
    "unpack_gguf": "unpack",
    "verify": "verification",
    "write_merged": "merge",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
