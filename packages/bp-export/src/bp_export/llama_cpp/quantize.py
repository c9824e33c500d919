"""Quantise a GGUF with llama.cpp's own quantiser, in a child process."""

from __future__ import annotations

import queue
import re
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from bp_core.errors import UnknownQuantization
from bp_core.events import Notify, Progress

from .engine import Worker, threads

FILE_TYPES = {"q6_k": 18, "q5_k_m": 17, "q4_k_m": 15}  # llama.cpp's llama_ftype
_STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_POLL_SECONDS = 0.1


def quantize(source: Path, target: Path, quantization: str, *, notify: Notify | None = None) -> None:
    """Write `target` from the float GGUF `source`. Raises UnknownQuantization, LlamaCppMissing, LlamaCppFailed."""
    if quantization not in FILE_TYPES:
        raise UnknownQuantization(f"{quantization!r} is not one of {', '.join(FILE_TYPES)}.")
    type_ = FILE_TYPES[quantization]
    request = {"do": "quantize", "source": str(source), "target": str(target), "type": type_, "threads": threads()}
    log: queue.SimpleQueue[str] = queue.SimpleQueue()
    worker = Worker(log.put)
    finished = False
    try:
        with ThreadPoolExecutor(1) as pool:
            _follow(pool.submit(worker.ask, request), log, worker, notify)
        finished = True
    finally:
        worker.close(now=not finished)


def _follow(answer: Future[dict[str, Any]], log: queue.SimpleQueue[str], worker: Worker, notify: Notify | None) -> None:
    """Report progress in this thread, so that an exception from `notify` stops the work."""
    done = False
    try:
        while not done:
            done = bool(wait([answer], _POLL_SECONDS).done)
            while not log.empty():
                match = _STEP.match(log.get())
                if match and notify:
                    notify(Progress("quantize", int(match[1]), int(match[2])))
        answer.result()
    except BaseException:
        worker.kill()  # or we would wait for llama.cpp to finish
        raise
