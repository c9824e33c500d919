"""Serve a GGUF over HTTP as OpenAI does, with llama.cpp's own server: to this machine only, unless told otherwise."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from bp_core.errors import AddressUnusable, FileMissing, LlamaCppFailed, LlamaServerMissing, OpenToOthers

from ..config import NUM_CTX, ServeConfig
from ..gguf.metadata import gguf_facts
from .engine import threads
from .process import ModuleProcess

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
        self._process = ModuleProcess("bp_export.llama_cpp._server")
        with contextlib.suppress(OSError):  # it died already; its last words tell why
            self._process.send(_request(path, self.name, config, gpu))  # not an argument: others may see those
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
        raise LlamaCppFailed(f"llama-server ended (exit {code}). Its last words: {self._process.words}")

    def close(self) -> None:
        self._process.close()

    def _address(self, config: ServeConfig) -> str:
        """Where it listens, once the model is loaded."""
        try:
            line = self._process.stdout.readline()
        except BaseException:
            self.close()
            raise
        if line:
            return str(json.loads(line)["url"])
        self.close()
        # llama.cpp says so too, but at times ends before that is written
        if "couldn't bind" in self._process.words or not _free(config.host, config.port):
            raise AddressUnusable(f"nothing can listen at {config.host}, port {config.port}.")
        raise LlamaCppFailed(f"llama-server did not start. Its last words: {self._process.words}")


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
