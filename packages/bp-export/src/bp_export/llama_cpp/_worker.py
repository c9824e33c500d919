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
from cyllama.llama import llama_cpp

from .process import END_OF_LOG

BATCH = 256


def byte_table() -> dict[str, int]:
    """GPT-2's byte alphabet: visible Latin-1 characters stand for themselves, other bytes become 256 and up."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in visible}
    hidden = [byte for byte in range(256) if byte not in visible]
    return table | {chr(256 + place): byte for place, byte in enumerate(hidden)}


class Model(llama_cpp.LlamaModel):  # type: ignore[misc]
    """LlamaModel with the property `n_vocab`, which the binding's own get_logits_ith needs."""

    @property
    def n_vocab(self) -> int:
        return int(self.get_vocab().n_vocab)


class Session:
    """One loaded model with its context."""

    def __init__(self, path: str, context: int, gpu: bool, threads: int) -> None:
        model = llama_cpp.LlamaModelParams()
        model.n_gpu_layers = -1 if gpu else 0
        self.model = Model(path_model=path, params=model, verbose=True)
        self.vocab = self.model.get_vocab()
        settings = llama_cpp.LlamaContextParams()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = context, BATCH, BATCH
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.LlamaContext(self.model, settings, True)
        self.batch = llama_cpp.LlamaBatch(n_tokens=BATCH, embd=0, n_seq_max=1)
        self.bytes = byte_table()

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return list(self.vocab.tokenize(text, add_special, parse_special)) if text else []

    def logits(self, tokens: list[int]) -> np.ndarray:
        """float32 [len(tokens), vocabulary]"""
        self._fits(tokens)
        rows = np.empty((len(tokens), self.vocab.n_vocab), np.float32)
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            self._decode(part, start, every=True)
            for row in range(len(part)):
                rows[start + row] = np.fromiter(self.context.get_logits_ith(row), np.float32, rows.shape[1])
        return rows

    def prefill(self, tokens: list[int]) -> None:
        self._fits(tokens)
        for start in range(0, len(tokens), BATCH):
            self._decode(tokens[start : start + BATCH], start, every=False)

    def step(self, token: int, position: int) -> None:
        self._decode([token], position, every=False)

    def piece(self, token: int) -> bytes:
        """The bytes of a token. The binding hides partial characters, so they are read from the token's name."""
        text = str(self.vocab.token_to_piece(token, 0, False))
        if "\ufffd" not in text:
            return text.encode()
        name = str(self.vocab.get_text(token))
        if name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:-1])
        if all(letter in self.bytes for letter in name):
            return bytes(self.bytes[letter] for letter in name)
        return text.encode()

    def _fits(self, tokens: list[int]) -> None:
        if not tokens or len(tokens) > self.context.n_ctx:
            raise ValueError(f"{len(tokens)} tokens do not fit a context of {self.context.n_ctx}")
        if min(tokens) < 0 or max(tokens) >= self.vocab.n_vocab:
            raise ValueError(f"a token is outside the vocabulary of {self.vocab.n_vocab}")

    def _decode(self, tokens: list[int], start: int, *, every: bool) -> None:
        if start == 0:
            self.context.kv_cache_clear()
        self.batch.clear()
        for place, token in enumerate(tokens):
            self.batch.add(token, start + place, [0], every or place == len(tokens) - 1)
        self.context.decode(self.batch)


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
        return {"context": self.session.context.n_ctx, "vocabulary": self.session.vocab.n_vocab}

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
        sampler = _sampler(temperature, seed)
        text = codecs.getincrementaldecoder("utf-8")("replace")
        session.prefill(tokens)
        room = min(limit, session.context.n_ctx - len(tokens))
        while len(generated) < room and not stopped and not self.stop.is_set():
            token = sampler.sample(session.context, -1)
            generated.append(token)
            stopped = session.vocab.is_eog(token)
            if not stopped:
                self.say({"piece": text.decode(session.piece(token))})
                if len(generated) < room:
                    session.step(token, len(tokens) + len(generated) - 1)
        self.say({"piece": text.decode(b"", final=True)})
        return {"tokens": generated, "stopped": stopped}

    def do_quantize(self, source: str, target: str, type: int, threads: int) -> dict[str, Any]:
        settings = llama_cpp.LlamaModelQuantizeParams()
        settings.ftype, settings.nthread = type, threads
        llama_cpp.model_quantize(source, target, settings)
        return {}


def _sampler(temperature: float, seed: int) -> Any:
    sampler = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
    if temperature <= 0:
        sampler.add_greedy()
    else:
        sampler.add_temp(temperature)
        sampler.add_dist(seed)
    return sampler


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the caller decides
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what llama.cpp prints is log, not an answer
    llama_cpp.llama_backend_init()
    worker = Worker(out)
    # started last: on Windows, loading a library waits for a read on stdin that is under way
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.serve()


if __name__ == "__main__":
    main()
