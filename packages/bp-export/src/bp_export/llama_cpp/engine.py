"""Run a GGUF model with llama.cpp, in a child process: tokenize, logits, generate."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from bp_core.errors import FileMissing, LlamaCppFailed, LlamaCppMissing

from .process import END_OF_LOG, EXIT_SECONDS, ModuleProcess


@dataclass(frozen=True)
class GeneratedTokens:
    """Generated token ids (including the end token), their text, and whether the model stopped by itself."""

    tokens: list[int]
    text: str
    stopped: bool


class Worker(ModuleProcess):
    """The child process that runs llama.cpp. `on_log` gets each line of llama.cpp's log, in another thread."""

    def __init__(self, on_log: Callable[[str], None] | None = None) -> None:
        require_llama_cpp()
        self._on_line = on_log
        self._log_complete = threading.Event()
        super().__init__("bp_export.llama_cpp._worker", self._read_log)

    def send(self, request: Mapping[str, Any]) -> None:
        try:
            super().send(request)
        except OSError as error:
            raise self._failure() from error

    def answer(self) -> dict[str, Any]:
        """The next answer. Raises LlamaCppFailed if it is an error, or if the process has ended."""
        line = self.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._log_complete.wait(EXIT_SECONDS)
            self._log_complete.clear()
            fix = f"{LlamaCppFailed.fix} Its last log lines: {self.log_tail}"
            raise LlamaCppFailed(f"llama.cpp: {answer['error']}", fix=fix)
        return answer

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.send(request)
        return self.answer()

    def raw(self, size: int) -> bytes:
        """The next `size` bytes of its output."""
        data = self.stdout.read(size)
        if len(data) != size:
            raise self._failure()
        return data

    def _read_log(self, line: str) -> None:
        if line == END_OF_LOG:
            self._log_complete.set()
        elif self._on_line:
            self._on_line(line)

    def _failure(self) -> LlamaCppFailed:
        self.kill()  # a worker that closed its output is of no more use
        code = self.wait()
        return LlamaCppFailed(f"llama.cpp exited without an answer (code {code}). Its last log lines: {self.log_tail}")


class Engine:
    """A GGUF model loaded in llama.cpp: `with Engine(path, context=512) as engine: engine.logits(tokens)`.

    `context` is in tokens. `gpu=False` computes on the CPU only, which is more exact. Raises LlamaCppMissing,
    LlamaCppFailed, FileMissing.
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

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(now=error is not None)

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._worker.pid

    def close(self, *, now: bool = False) -> None:
        self._worker.close(now=now)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Token ids. `parse_special`: names of special tokens in `text` become those tokens."""
        request = {"do": "tokenize", "text": text, "add_special": add_special, "parse_special": parse_special}
        return list(self._worker.ask(request)["tokens"])

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 [len(tokens), vocabulary]; each row predicts the next token."""
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
        """Continue `tokens` until the model ends its turn, after `limit` tokens, or when the context is full.

        `on_piece` gets the text as it is generated, in whole characters. After an interrupt the engine stays usable.
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
    """Raise LlamaCppMissing if no embedded llama.cpp is installed."""
    library_file()


def library_file() -> Path:
    """llama.cpp's library: inside xllamacpp's module, on Windows llama-cpp-py-sync's. Raises LlamaCppMissing."""
    package, pattern = ("llama_cpp_py_sync", "llama.dll") if sys.platform == "win32" else ("xllamacpp", "xllamacpp*.so")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob(pattern)):
            return file
    raise LlamaCppMissing(f"the package {package.replace('_', '-')} is not installed.")


def threads() -> int:
    """Threads for llama.cpp: OMP_NUM_THREADS if set, else all cores up to four, or half of them if that is more.

    llama.cpp's threads wait for each other by spinning, so more threads than free cores are many times slower.
    """
    setting = os.environ.get("OMP_NUM_THREADS", "")
    if setting.isdecimal() and int(setting) > 0:
        return int(setting)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(cores // 2, min(cores, 4))
