"""Adapter → merged weights → GGUF → quantised → proven. Names are loaded at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bp_core.lazy_names import lazy_names

if TYPE_CHECKING:
    from .gguf.metadata import GgufFacts, gguf_facts
    from .gguf.to_huggingface import unpack_gguf
    from .llama_cpp.engine import Engine, GeneratedTokens
    from .outcome import Export
    from .parity import Parity
    from .pipeline import export
    from .proof.prover import prove
    from .proof.trained_model import TrainedModel
    from .proof.verify import verify
    from .quantization.quantize import quantize
    from .weights.merge import write_merged

__all__ = [
    "Engine",
    "Export",
    "GeneratedTokens",
    "GgufFacts",
    "Parity",
    "TrainedModel",
    "export",
    "gguf_facts",
    "prove",
    "quantize",
    "unpack_gguf",
    "verify",
    "write_merged",
]
_HOMES = {
    **dict.fromkeys(("Engine", "GeneratedTokens"), ".llama_cpp.engine"),
    **dict.fromkeys(("GgufFacts", "gguf_facts"), ".gguf.metadata"),
    "Parity": ".parity",
    "Export": ".outcome",
    "export": ".pipeline",
    "prove": ".proof.prover",
    "TrainedModel": ".proof.trained_model",
    "quantize": ".quantization.quantize",
    "unpack_gguf": ".gguf.to_huggingface",
    "verify": ".proof.verify",
    "write_merged": ".weights.merge",
}
__getattr__ = lazy_names(__name__, _HOMES)
