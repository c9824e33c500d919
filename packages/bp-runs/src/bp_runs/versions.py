"""Package versions, for the record of a run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "backpropagate",
    "bp-core",
    "bp-data",
    "bp-plan",
    "bp-resilience",
    "bp-runs",
    "bp-eval",
    "bp-cuda",
    "bp-mlx",
    "bp-multirun",
    "bp-export",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "huggingface-hub",
    "mlx",
    "mlx-lm",
    "tokenizers",
    "safetensors",
    "gguf",
    "cyllama",
    "xllamacpp",
    "numpy",
)


def versions() -> dict[str, str | None]:
    """Versions of our packages and of the main dependencies; None if not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
