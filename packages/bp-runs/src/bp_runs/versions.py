"""Package versions, for the record of a run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_OURS = ("core", "data", "plan", "resilience", "runs", "eval", "cuda", "mlx", "multirun", "export")
_PACKAGES = (
    "backpropagate",
    *(f"bp-{name}" for name in _OURS),
    *("torch", "transformers", "peft", "accelerate", "bitsandbytes", "huggingface-hub", "mlx", "mlx-lm"),
    *("tokenizers", "safetensors", "gguf", "libggml-python", "xllamacpp", "numpy"),
)


def versions() -> dict[str, str | None]:
    """Versions of our packages and of the main dependencies; None if not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
