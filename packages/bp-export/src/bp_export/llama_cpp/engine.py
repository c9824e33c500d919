"""A GGUF model in llama.cpp: tokens, logits and text of it, computed in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from bp_core.errors import FileMissing, LlamaCppFailed, LlamaCppMissing

from .process import END_OF_LOG, GOODBYE_SECONDS, ModuleProcess


@dataclass(frozen=True)
class GeneratedTokens:
    """What a model wrote: the token ids (with the one that ended it), their text, and whether it ended by itself."""

    tokens: list[int]
    text: str
    stopped: bool


class Worker:
    """The process, and the talk with it. `on_log` sees each line of llama.cpp's log, from another thread."""

    def __init__(self, on_log: Callable[[str], None] | None = None) -> None:
        require_llama_cpp()
        self._on_log = on_log
        self._logged = threading.Event()
        self._process = ModuleProcess("bp_export.llama_cpp._worker", self._hear)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: dict[str, Any]) -> None:
        try:
            self._process.send(json.dumps(request))
        except OSError as error:
            raise self._failure() from error

    def answer(self) -> dict[str, Any]:
        """The next line the worker says. Raises LlamaCppFailed for an error or when it has died."""
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._logged.wait(GOODBYE_SECONDS)
            self._logged.clear()
            fix = f"{LlamaCppFailed.fix} Its last words: {self._process.words}"
            raise LlamaCppFailed(f"llama.cpp: {answer['error']}", fix=fix)
        return answer

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.send(request)
        return self.answer()

    def raw(self, size: int) -> bytes:
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise self._failure()
        return data

    def kill(self) -> None:
        self._process.kill()

    def close(self, *, now: bool = False) -> None:
        """End the process: by closing its input, or at once."""
        if now:
            self._process.kill()
        self._process.close()

    def _hear(self, line: str) -> None:
        if line == END_OF_LOG:
            self._logged.set()
        elif self._on_log:
            self._on_log(line)

    def _failure(self) -> LlamaCppFailed:
        self._process.kill()  # a worker that closed its output is of no more use
        code = self._process.wait()
        message = f"llama.cpp ended without an answer (exit {code}). Its last words: {self._process.words}"
        return LlamaCppFailed(message)


class Engine:
    """A GGUF model in llama.cpp: `with Engine(path, context=512) as engine: engine.logits(tokens)`.

    `gpu` False computes on the CPU only, for exactness. Raises LlamaCppMissing, LlamaCppFailed, FileMissing.
    """

    def __init__(self, path: Path, *, context: int = 4096, gpu: bool = True) -> None:
        if not path.is_file():
            raise FileMissing("there is no such file.", where=str(path))
        self.path = path
        self._worker = Worker()
        load = {"do": "load", "path": str(path), "context": context, "gpu": gpu, "threads": threads()}
        try:
            loaded = self._worker.ask(load)
        except BaseException:
            self._worker.close(now=True)
            raise
        self.context = int(loaded["context"])
        self.vocabulary = int(loaded["vocabulary"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(now=error is not None)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._worker.pid

    def close(self, *, now: bool = False) -> None:
        self._worker.close(now=now)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Token ids. `parse_special`: the names of special tokens in `text` become those tokens."""
        request = {"do": "tokenize", "text": text, "add_special": add_special, "parse_special": parse_special}
        return list(self._worker.ask(request)["tokens"])

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 [len(tokens), vocabulary], each row predicting the next token."""
        head = self._worker.ask({"do": "logits", "tokens": list(tokens)})
        rows = np.frombuffer(self._worker.raw(head["bytes"]), np.float32).reshape(head["shape"])
        self._worker.answer()
        return rows

    def generate(
        self,
        tokens: Sequence[int],
        limit: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        on_piece: Callable[[str], None] | None = None,
    ) -> GeneratedTokens:
        """Continue `tokens` until the model ends its turn, `limit` tokens are made, or the context is full.

        `on_piece` gets the text as it is written, in whole characters. Interrupting it leaves the engine usable.
        """
        request = {"do": "generate", "tokens": list(tokens), "limit": limit, "temperature": temperature, "seed": seed}
        self._worker.send(request)
        try:
            return self._collect(on_piece)
        except LlamaCppFailed:
            raise
        except BaseException:
            self._stop()
            raise

    def _collect(self, on_piece: Callable[[str], None] | None) -> GeneratedTokens:
        pieces: list[str] = []
        while True:
            answer = self._worker.answer()
            if answer.get("done"):
                return GeneratedTokens(answer["tokens"], "".join(pieces), answer["stopped"])
            if answer["piece"]:
                pieces.append(answer["piece"])
                if on_piece:
                    on_piece(answer["piece"])

    def _stop(self) -> None:
        self._worker.send({"do": "stop"})
        while not self._worker.answer().get("done"):
            pass


def require_llama_cpp() -> None:
    """Raise LlamaCppMissing unless an embedded llama.cpp is installed."""
    if importlib.util.find_spec("cyllama") is None:
        raise LlamaCppMissing("the package cyllama is not installed.")


def threads() -> int:
    """How many threads llama.cpp gets: OMP_NUM_THREADS if set, else up to four processors, or half of more.

    Its threads wait for each other by spinning: more of them than free cores are many times slower, not faster.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    mine = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(mine // 2, min(mine, 4))
