"""Serve a GGUF with llama.cpp's OpenAI-compatible HTTP server, by default to this machine only."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import json
import socket
from pathlib import Path
from typing import Any, Self

from bp_core.errors import AddressUnusable, FileMissing, GgufUnusable, LlamaCppFailed, LlamaServerMissing, OpenToOthers

from ..config import NUM_CTX, ServeConfig
from ..gguf.metadata import gguf_facts, is_adapter, require_context
from ..gguf.reader import GgufFile
from .engine import threads
from .process import ModuleProcess

_NO_ORIGIN = ""  # so that web pages of other sites cannot read the answers
_ALL_LAYERS = -1


class LlamaServer:
    """A running llama-server: `with LlamaServer(path, ServeConfig(port=0)) as server: server.url`.

    Its endpoints: /v1/chat/completions, /v1/completions, /v1/models, /health and the others of llama-server.
    Raises FileMissing, GgufUnusable, LlamaServerMissing, OpenToOthers, AddressUnusable, LlamaCppFailed.
    """

    def __init__(self, path: Path, config: ServeConfig | None = None, *, gpu: bool = True) -> None:
        config = config or ServeConfig()
        files = [path, Path(config.lora)] if config.lora else [path]
        for file in files:
            if not file.is_file():
                raise FileMissing("there is no such file.", where=str(file))
        if not (is_local(config.host) or config.open_to_network):
            raise OpenToOthers(f"anyone who can reach {config.host} could use the model.")
        if importlib.util.find_spec("xllamacpp") is None:
            raise LlamaServerMissing("the package xllamacpp is not installed.")
        self.name = config.name or path.stem
        request = _request(path, self.name, config, gpu)
        self._process = ModuleProcess("bp_export.llama_cpp._server")
        with contextlib.suppress(OSError):  # it has ended already; its log tells why
            self._process.send(request)  # not as an argument, which other users can see
        self.url = self._address(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> None:
        """Wait until the server ends by itself, which is a failure. Raises LlamaCppFailed."""
        code = self._process.wait()
        raise LlamaCppFailed(f"llama-server exited (code {code}). Its last log lines: {self._process.log_tail}")

    def close(self) -> None:
        self._process.close()

    def _address(self, config: ServeConfig) -> str:
        """The URL of the server, once the model is loaded."""
        try:
            line = self._process.stdout.readline()
        except BaseException:
            self.close()
            raise
        if line:
            return str(json.loads(line)["url"])
        self.close()
        # llama.cpp logs this too, but sometimes exits before it is written
        if "couldn't bind" in self._process.log_tail or not _can_listen(config.host, config.port):
            raise AddressUnusable(f"cannot listen on {config.host}, port {config.port}.")
        raise LlamaCppFailed(f"llama-server did not start. Its last log lines: {self._process.log_tail}")


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _can_listen(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError:
        return False
    return True


def _request(path: Path, name: str, config: ServeConfig, gpu: bool) -> dict[str, Any]:
    facts = gguf_facts(path)
    if config.lora and not is_adapter(GgufFile(Path(config.lora))):
        message = "this is a whole model, not a LoRA adapter."
        raise GgufUnusable(message, where=config.lora, fix="Serve it without --lora, in place of the other file.")
    require_context(config.num_ctx, facts.context_length, path)
    context = config.num_ctx or min(NUM_CTX, facts.exact_context)
    return {
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
