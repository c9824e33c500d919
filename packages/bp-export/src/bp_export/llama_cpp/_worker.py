"""The child process that runs llama.cpp; engine.py starts it as `python -m bp_export.llama_cpp._worker`.

Requests are lines of JSON on stdin, answers lines of JSON on stdout. A crash here cannot end the caller. When stdin
closes, which it does when the caller ends, this process ends at once.
"""

from __future__ import annotations

import codecs
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from ._library import Model, load_library
from .process import END_OF_LOG

BATCH = 256


class Session:
    """One loaded model with its context."""

    def __init__(self, path: str, context: int, gpu: bool, threads: int) -> None:
        self.model = Model(load_library(), path, context, BATCH, gpu, threads)
        self.batch = min(BATCH, self.model.batch)  # llama.cpp's is no longer than the context that was asked for

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return self.model.tokenize(text, add_special, parse_special) if text else []

    def logits(self, tokens: list[int]) -> np.ndarray:
        """float32 [len(tokens), vocabulary]"""
        self._fits(tokens)
        self.model.clear()
        parts = [tokens[start : start + self.batch] for start in range(0, len(tokens), self.batch)]
        return np.concatenate([self.model.decode(part, every=True) for part in parts])

    def prefill(self, tokens: list[int]) -> np.ndarray:
        """Start anew with these tokens; the logits behind the last, float32 [vocabulary]."""
        self._fits(tokens)
        self.model.clear()
        for start in range(0, len(tokens), self.batch):
            last = self.step(tokens[start : start + self.batch])
        return last

    def step(self, tokens: list[int]) -> np.ndarray:
        """Go on; the logits behind the last token, float32 [vocabulary]."""
        row: np.ndarray = self.model.decode(tokens, every=False)[0]
        return row

    def _fits(self, tokens: list[int]) -> None:
        if not tokens or len(tokens) > self.model.length:
            raise ValueError(f"{len(tokens)} tokens do not fit a context of {self.model.length}")
        if min(tokens) < 0 or max(tokens) >= self.model.words:
            raise ValueError(f"a token is outside the vocabulary of {self.model.words}")


class Worker:
    """Answers requests, one after another."""

    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.session: Session | None = None

    def listen(self) -> None:
        """In a thread: queue requests, act on `stop` at once, and end the process when stdin closes."""
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if request["do"] == "stop":
                self.stop.set()
            else:
                self.requests.put(request)
        os._exit(0)

    def serve(self) -> None:
        while True:
            request = self.requests.get()
            verb: Callable[..., dict[str, Any]] = getattr(self, f"do_{request.pop('do')}")
            try:
                self.say(verb(**request) | {"done": True})
            except (ValueError, RuntimeError, MemoryError, OSError) as error:
                print(END_OF_LOG, file=sys.stderr, flush=True)  # the caller reads the log up to here
                self.say({"done": True, "error": str(error) or type(error).__name__})

    def say(self, answer: dict[str, Any], raw: bytes = b"") -> None:
        self.out.write(json.dumps(answer).encode() + b"\n" + raw)
        self.out.flush()

    def do_load(self, path: str, context: int, gpu: bool, threads: int) -> dict[str, Any]:
        self.session = Session(path, context, gpu, threads)
        return {"context": self.session.model.length, "vocabulary": self.session.model.words}

    def do_tokenize(self, text: str, add_special: bool, parse_special: bool) -> dict[str, Any]:
        assert self.session
        return {"tokens": self.session.tokenize(text, add_special, parse_special)}

    def do_logits(self, tokens: list[int]) -> dict[str, Any]:
        assert self.session
        rows = self.session.logits(tokens)
        self.say({"shape": rows.shape, "bytes": rows.nbytes}, rows.tobytes())
        return {}

    def do_generate(self, tokens: list[int], limit: int, temperature: float, seed: int) -> dict[str, Any]:
        assert self.session
        session, stopped = self.session, False
        generated: list[int] = []
        self.stop.clear()
        random = np.random.default_rng(seed)
        text = codecs.getincrementaldecoder("utf-8")("replace")
        logits = session.prefill(tokens)
        room = min(limit, session.model.length - len(tokens))
        while len(generated) < room and not stopped and not self.stop.is_set():
            token = _chosen(logits, temperature, random)
            generated.append(token)
            stopped = session.model.ends(token)
            if not stopped:
                self.say({"piece": text.decode(session.model.piece(token))})
                if len(generated) < room:
                    logits = session.step([token])
        self.say({"piece": text.decode(b"", final=True)})
        return {"tokens": generated, "stopped": stopped}


def _chosen(logits: np.ndarray, temperature: float, random: np.random.Generator) -> int:
    """The likeliest token, or with a temperature one by its probability. `logits` is float32 [vocabulary]."""
    if temperature <= 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return int(random.choice(len(weights), p=weights / weights.sum()))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the caller decides
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what llama.cpp prints is log, not an answer
    worker = Worker(out)
    # started last: on Windows, loading a library waits for a read on stdin that is under way
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.serve()


if __name__ == "__main__":
    main()
