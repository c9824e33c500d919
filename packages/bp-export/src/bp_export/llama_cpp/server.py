"""Serve a GGUF over HTTP as OpenAI does, with llama.cpp's own server: to this machine only, unless told otherwise."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import json
import socket
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from bp_core.errors import AddressUnusable, FileMissing, LlamaCppFailed, LlamaServerMissing, OpenToOthers

from ..config import NUM_CTX, ServeConfig
from ..gguf.metadata import gguf_facts
from .engine import threads

_TAIL_LINES = 8
_GOODBYE_SECONDS = 10
_NO_ORIGIN = ""  # so that no web page of somebody else's can read the answers
_ALL_LAYERS = -1


class LlamaServer:
    """A running server: `with LlamaServer(path, ServeConfig(port=0)) as server: server.url`.

    It has /v1/chat/completions, /v1/completions, /v1/models, /health and what else llama-server has.
    Raises FileMissing, GgufUnusable, LlamaServerMissing, OpenToOthers, AddressUnusable, LlamaCppFailed.
    """

    def __init__(self, path: Path, config: ServeConfig | None = None, *, gpu: bool = True) -> None:
        config = config or ServeConfig()
        for file in (path, *([Path(config.lora)] if config.lora else [])):
            if not file.is_file():
                raise FileMissing("there is no such file.", where=str(file))
        if not (is_local(config.host) or config.open_to_network):
            message = f"{config.host} is not only this machine: everybody who reaches it could use the model."
            raise OpenToOthers(message)
        if importlib.util.find_spec("xllamacpp") is None:
            raise LlamaServerMissing("the package xllamacpp is not installed.")
        self.name = config.name or path.stem
        self._log: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process = self._start(_request(path, self.name, config, gpu))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.url = self._address(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> None:
        """Until it ends by itself, which is a failure. Raises LlamaCppFailed."""
        code = self._process.wait()
        self._listener.join()
        raise LlamaCppFailed(f"llama-server ended (exit {code}). Its last words: {self._words()}")

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):  # it may be dead already
            self._process.stdin.close()
        try:
            self._process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._process.stdout.close()

    def _start(self, request: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-P", "-m", "bp_export.llama_cpp._server"]
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin
        with contextlib.suppress(OSError):  # it died already; its last words tell why
            process.stdin.write(request.encode() + b"\n")  # not an argument: others may see those
            process.stdin.flush()
        return process

    def _address(self, config: ServeConfig) -> str:
        """Where it listens, once the model is loaded."""
        assert self._process.stdout
        try:
            line = self._process.stdout.readline()
        except BaseException:
            self.close()
            raise
        if line:
            return str(json.loads(line)["url"])
        self.close()
        # llama.cpp says so too, but at times ends before that is written
        if any("couldn't bind" in text for text in self._log) or not _free(config.host, config.port):
            raise AddressUnusable(f"nothing can listen at {config.host}, port {config.port}.")
        raise LlamaCppFailed(f"llama-server did not start. Its last words: {self._words()}")

    def _listen(self) -> None:
        assert self._process.stderr
        with self._process.stderr as stream:
            for line in stream:
                self._log.append(line.decode("utf-8", "replace").rstrip())

    def _words(self) -> str:
        return " | ".join(line for line in self._log if line) or "none"


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _free(host: str, port: int) -> bool:
    """Whether something could listen there."""
    try:
        socket.create_server((host.strip("[]"), port), family=_family(host)).close()
    except OSError:
        return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _request(path: Path, name: str, config: ServeConfig, gpu: bool) -> str:
    facts = gguf_facts(path)
    context = min(config.num_ctx, facts.context_length) if config.num_ctx else min(NUM_CTX, facts.exact_context)
    asked = {
        "path": str(path),
        "name": name,
        "host": config.host,
        "port": config.port,
        "context": context * config.parallel,
        "parallel": config.parallel,
        "gpu_layers": _ALL_LAYERS if gpu else 0,
        "threads": threads(),
        "lora": config.lora or "",
        "api_key": config.api_key or "",
        "origins": _NO_ORIGIN,
    }
    return json.dumps(asked)
