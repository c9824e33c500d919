"""A client of Ollama's HTTP API."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

import httpx

from bp_core.errors import OllamaModelMissing, OllamaRegistrationFailed, OllamaUnreachable
from bp_core.events import Notify, Progress

from ..chat_template import Tools, Turns
from ..llama_cpp.server import is_local
from ..replies import Reply, call_of, cannot_read
from .blob import Blob
from .versions import Version, parse_version

_PORTS = {"": 11434, "http": 80, "https": 443}  # Ollama's own default only where no scheme is named
_ANYWHERE = ("0.0.0.0", "::")  # addresses to listen on, not to connect to
_CONNECT_SECONDS = 5.0
_QUICK_SECONDS = 30.0  # for requests that only look something up
_ANSWER_SECONDS = 600.0  # loading a large model takes minutes
_SLOW = ("/api/blobs/", "/api/create", "/api/chat")
_UNLOADING_SECONDS = 10.0  # that memory may take to be free


def address(host: str) -> str:
    """The URL for OLLAMA_HOST: host, host:port, :port, an IPv6 address, with or without scheme and path."""
    scheme, found, rest = host.strip().strip("\"'").strip().rpartition("://")
    place, slash, path = rest.partition("/")
    match = re.fullmatch(r"(\[.*\]|[^:]*)(?::(\d*))?", place)
    name, port = (match[1], match[2]) if match else (place, None)
    name = name.strip("[]")
    if not name or name in _ANYWHERE:
        name = "127.0.0.1"
    number = int(port) if port and int(port) < 1 << 16 else _PORTS.get(scheme, _PORTS[""])
    shown = f"[{name}]" if ":" in name else name
    return f"{scheme if found else 'http'}://{shown}:{number}{slash}{path}".rstrip("/")


class Ollama:
    """A running Ollama, at OLLAMA_HOST or on this machine. Use it with `with`.

    `patience`: seconds to wait for an answer. Every method may raise OllamaUnreachable, OllamaRegistrationFailed.
    """

    def __init__(self, host: str | None = None, *, patience: float | None = None) -> None:
        self.url = address(os.environ.get("OLLAMA_HOST", "") if host is None else host)
        self._patience = patience or _ANSWER_SECONDS
        try:
            # A proxy from the environment cannot reach this machine's loopback address.
            self._client = httpx.Client(base_url=self.url, trust_env=not is_local(httpx.URL(self.url).host))
        except httpx.InvalidURL as error:
            raise OllamaUnreachable(f"this is not a valid address ({error}).", where=self.url) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._client.close()

    def version(self) -> Version:
        """The server's version, such as (0, 34, 1)."""
        text = str(self._json("GET", "/api/version").get("version"))
        version = parse_version(text)
        if version is None:
            message = f"this is not Ollama: its version is {text!r}."
            raise OllamaRegistrationFailed(message, where=self.url)
        return version

    def models(self) -> list[dict[str, Any]]:
        """Its models, each with name, size in bytes, digest, modified_at, …"""
        return list(self._json("GET", "/api/tags").get("models") or [])

    def has(self, name: str) -> bool:
        return any(_same(model, name) for model in self.models())

    def show(self, name: str) -> dict[str, Any]:
        return self._json("POST", "/api/show", {"model": name})

    def remove(self, name: str) -> None:
        """Take a model out of memory, where it would stay, and off the disk. Raises OllamaModelMissing."""
        with suppress(OllamaRegistrationFailed):  # one that cannot chat is removed all the same
            self.unload(name)
        self._json("DELETE", "/api/delete", {"model": name})

    def copy(self, source: str, target: str) -> None:
        self._json("POST", "/api/copy", {"source": source, "destination": target})

    def loaded(self) -> list[dict[str, Any]]:
        """The models in memory, each with name, size in bytes, expires_at, …"""
        return list(self._json("GET", "/api/ps").get("models") or [])

    def unload(self, name: str) -> None:
        """Take a model out of memory, and wait until it is. Raises OllamaModelMissing.

        An earlier model of this name that is still in memory is left there: Ollama tells them apart by digest.
        """
        digests = {model.get("digest") for model in self.models() if _same(model, name)}
        self.chat({"model": name, "messages": [], "keep_alive": 0})
        end = time.monotonic() + _UNLOADING_SECONDS
        while time.monotonic() < end and any(
            _same(model, name) and model.get("digest") in digests for model in self.loaded()
        ):
            time.sleep(0.05)

    def chat(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._json("POST", "/api/chat", {"stream": False, **request})

    def reply(self, name: str, turns: Turns, tools: Tools = None, *, limit: int, think: bool | None = None) -> Reply:
        """The greedy answer in its parts. `think` false leaves thoughts out; None leaves it to the server."""
        request: dict[str, Any] = {"model": name, "messages": list(turns)}
        request |= {"options": {"temperature": 0, "num_predict": limit}}
        request |= {"tools": list(tools)} if tools else {}
        request |= {"think": think} if think is not None else {}
        try:
            answer = self.chat(request)
        except OllamaRegistrationFailed as error:
            if cannot_read(error.message):
                return Reply("", read=False)
            raise
        message = answer.get("message") or {}
        calls = tuple(call_of(call["function"]) for call in message.get("tool_calls") or ())
        ended = answer.get("done_reason") == "stop"
        return Reply(str(message.get("content") or ""), str(message.get("thinking") or ""), calls, ended)

    def create(self, request: Mapping[str, Any], notify: Notify | None = None) -> None:
        """Create a model from uploaded blobs. An error may come late in the stream, or the stream may break off."""
        last = ""
        with self._answer("POST", "/api/create", json=dict(request)) as response:
            for line in response.iter_lines():
                last = str(self._object(line).get("status", last))
                if notify:
                    notify(Progress(f"Ollama: {last}", 0, 0))
        if last != "success":
            raise OllamaRegistrationFailed(f"Ollama broke off after {last!r}.", where=self.url)

    def upload(self, blob: Blob) -> bool:
        """Upload a blob. Returns False if Ollama has it already."""
        path = f"/api/blobs/{blob.digest}"
        with self._answer("HEAD", path, missing_is_fine=True) as response:
            if response.status_code == httpx.codes.OK:
                return False
        headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        with self._answer("POST", path, content=blob.chunks("upload to Ollama"), headers=headers):
            return True

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        with self._answer(method, path, json=body) as response:
            return self._object(response.read().decode("utf-8", "replace"))

    def _object(self, text: str) -> dict[str, Any]:
        """A JSON object from Ollama; empty text is an empty one. Raises OllamaRegistrationFailed."""
        try:
            answer = json.loads(text) if text.strip() else {}
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise OllamaRegistrationFailed(f"this is not Ollama: it answered {text[:80]!r}.", where=self.url)
        if "error" in answer:
            raise OllamaRegistrationFailed(f"Ollama: {answer['error']}", where=self.url)
        return answer

    @contextmanager
    def _answer(
        self, method: str, path: str, *, missing_is_fine: bool = False, **request: Any
    ) -> Iterator[httpx.Response]:
        patience = self._patience if path.startswith(_SLOW) else min(_QUICK_SECONDS, self._patience)
        limits = httpx.Timeout(patience, connect=min(_CONNECT_SECONDS, patience))
        try:
            with self._client.stream(method, path, timeout=limits, **request) as response:
                missing = response.status_code == httpx.codes.NOT_FOUND
                if not response.is_success and not (missing_is_fine and missing):
                    raise _refusal(response, self.url)
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise OllamaUnreachable(f"Ollama does not answer ({error}).", where=self.url) from error
        except httpx.TimeoutException as error:
            message = f"Ollama did not answer {path} within {patience:g} s."
            raise OllamaUnreachable(message, where=self.url) from error
        except httpx.HTTPError as error:
            raise OllamaUnreachable(f"the connection to Ollama broke ({error}).", where=self.url) from error


def _refusal(response: httpx.Response, url: str) -> OllamaModelMissing | OllamaRegistrationFailed:
    text = response.read().decode("utf-8", "replace")
    try:
        reason = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        reason = text.strip()[:200] or response.reason_phrase
    if response.status_code == httpx.codes.NOT_FOUND and "not found" in reason:
        return OllamaModelMissing(f"Ollama: {reason}", where=url)
    return OllamaRegistrationFailed(f"Ollama refused: {reason} (HTTP {response.status_code})", where=url)


def _same(model: Mapping[str, Any], name: str) -> bool:
    return _full(str(model.get("name"))).lower() == _full(name).lower()


def _full(name: str) -> str:
    """A name with its tag, by default `latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
