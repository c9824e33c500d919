"""Findings about packages, disks, the hub's token, Ollama and llama.cpp."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.constants import HF_HUB_CACHE

from bp_core.config import TrainConfig
from bp_core.errors import LlamaCppMissing, OllamaRegistrationFailed, OllamaUnreachable
from bp_core.units import gigabytes
from bp_export.llama_cpp.engine import library_file
from bp_export.ollama.client import Ollama
from bp_export.ollama.versions import OLDEST, shown

from .finding import Finding


@dataclass(frozen=True)
class _Kernels:
    """An optional package: its import, the statement that loads what we use of it, its extra, and what needs it."""

    module: str
    statement: str
    requirement: str
    option: str


_KERNELS = {
    "bitsandbytes": _Kernels("bitsandbytes", "import bitsandbytes.functional", '"bp-cuda[quant]"', "--mode qlora"),
    "liger-kernel": _Kernels("liger_kernel", "import liger_kernel.transformers", '"bp-cuda[liger]"', "--liger"),
    "flash-attn": _Kernels(
        "flash_attn", "import flash_attn", "flash-attn --no-build-isolation", "--attention flash-attention-2"
    ),
}
_IMPORT_SECONDS = 120.0
_LITTLE = 20e9  # bytes: a model of 7 billion parameters in 16 bits takes 15e9, its GGUF 5e9
_TOO_LITTLE = 5e9
_OLLAMA_SECONDS = 3.0


def kernels(has_card: bool) -> Iterator[Finding]:
    """Whether the optional kernels can be imported; all but bitsandbytes are for cards only."""
    for name in _KERNELS if has_card else ("bitsandbytes",):
        yield kernel(name)


def kernel(name: str) -> Finding:
    """Whether one of them is installed, and can be imported."""
    one = _KERNELS[name]
    if find_spec(one.module) is None:
        return Finding(name, "note", f"is not installed; {one.option} needs it.", f"uv pip install {one.requirement}")
    problem = _import_problem(one.statement)
    if problem:
        message = f"is installed, but cannot be used: {problem}"
        return Finding(name, "problem", message, f"uv pip install --reinstall {one.requirement}")
    return Finding(name, "ok", f"can be used, for {one.option}.")


def _import_problem(code: str) -> str:
    """Why an import fails in a fresh Python, "" if it does not. A broken library may end the whole process."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"its import did not end within {_IMPORT_SECONDS:.0f} seconds."
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"its import ended the process with {done.returncode}."


def disks(output: Path) -> Iterator[Finding]:
    """Free space where models are downloaded to, and where runs are written."""
    for what, folder in (("cache", Path(HF_HUB_CACHE)), ("output", output)):
        place = next(one for one in (folder.resolve(), *folder.resolve().parents) if one.exists())
        free = shutil.disk_usage(place).free
        told = f"{gigabytes(free)} are free at {place}"
        command = "hf cache ls" if what == "cache" else "backprop list-runs"
        if free < _TOO_LITTLE:
            yield Finding(f"disk ({what})", "problem", f"{told}: too little for most models.", command)
        elif free < _LITTLE:
            yield Finding(f"disk ({what})", "note", f"{told}: a model of 7 billion parameters takes 15 GB.", command)
        else:
            yield Finding(f"disk ({what})", "ok", f"{told}.")


def hub_token() -> Finding:
    """Whether the hub knows who asks. The token itself is never shown."""
    if get_token():
        return Finding("hub token", "ok", "is there.")
    return Finding(
        "hub token", "note", "is missing: gated models (Llama) and `backprop push` need one.", "hf auth login"
    )


def ollama() -> Finding:
    """Whether Ollama answers, and is new enough to import a file."""
    try:
        with Ollama(patience=_OLLAMA_SECONDS) as server:
            version = server.version()
    except (OllamaUnreachable, OllamaRegistrationFailed) as error:
        return Finding("Ollama", "note", error.message, "ollama serve")
    told = shown(version)
    if version < OLDEST:
        return Finding("Ollama", "problem", f"{told} cannot import GGUF files.", "ollama --version")
    return Finding("Ollama", "ok", f"answers, version {told}.")


def llama_cpp() -> Finding:
    """Whether exports can be proven and served here."""
    try:
        library_file()
    except LlamaCppMissing as error:
        return Finding(
            "llama.cpp",
            "problem",
            f"is missing, so exports cannot be proven: {error.message}",
            'uv pip install "bp-export[llama]"',
        )
    return Finding("llama.cpp", "ok", "is here, to quantise, prove and serve exports.")


def default_output() -> Path:
    return Path(TrainConfig.output)
