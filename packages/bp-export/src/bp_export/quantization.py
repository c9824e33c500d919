"""GGUF → smaller GGUF by llama.cpp's own quantiser, in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path

from bp_core.errors import UnknownQuantization
from bp_core.events import Notify, Progress

from .engine import Worker, threads

FILE_TYPES = {"q6_k": 18, "q5_k_m": 17, "q4_k_m": 15}  # llama.cpp's llama_ftype
_STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def quantize(source: Path, target: Path, quantization: str, *, notify: Notify | None = None) -> None:
    """Write `target` from the float GGUF `source`. Raises UnknownQuantization, LlamaCppMissing, LlamaCppFailed."""
    if quantization not in FILE_TYPES:
        raise UnknownQuantization(f"{quantization!r} is not one of {', '.join(FILE_TYPES)}.")

    def report(line: str) -> None:
        if notify and (match := _STEP.match(line)):
            notify(Progress("quantize", int(match[1]), int(match[2])))

    worker = Worker(report)
    finished = False
    try:
        type_ = FILE_TYPES[quantization]
        request = {"do": "quantize", "source": str(source), "target": str(target), "type": type_, "threads": threads()}
        worker.ask(request)
        finished = True
    finally:
        worker.close(now=not finished)
