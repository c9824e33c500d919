"""Talking to a GGUF behind llama.cpp's server, which keeps what it has read of a conversation so far."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bp_core.errors import GgufUnusable, LlamaCppFailed

from ..chat_template import Tools, Turns
from ..config import ServeConfig
from ..gguf.metadata import gguf_facts
from .server import LlamaServer

_SHORTER = "Start over with /new, or serve the file with more: backprop serve FILE --num-ctx 16384"
_ONE_EACH = httpx.Limits(max_keepalive_connections=0)  # the server hangs up on a user who thinks for seconds
_LIMITS = httpx.Timeout(None, connect=5.0)  # a large model on a small machine reads a long text for minutes


class Talk:
    """A client of a server of our own: `answer(turns, limit, on_text)`, `prompt(turns)`."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def answer(self, turns: Turns, limit: int, on_text: Callable[[str], None]) -> str:
        """The most likely answer, told piece by piece. Raises LlamaCppFailed, also for a context that is full."""
        # Thoughts are part of what was trained: they are told as they are written.
        request = {"messages": turns, "max_tokens": limit, "temperature": 0, "reasoning_format": "none"}
        told: list[str] = []
        try:
            with self._client.stream("POST", "/v1/chat/completions", json={**request, "stream": True}) as response:
                for piece in _pieces(response):
                    told.append(piece)
                    on_text(piece)
        except httpx.HTTPError as error:
            raise _gone(error) from error
        return "".join(told)

    def prompt(self, turns: Turns, tools: Tools = None) -> str:
        """What llama.cpp writes before the answer, without a first token that it adds. Raises LlamaCppFailed."""
        request = {"messages": turns} | ({"tools": tools} if tools else {})
        try:
            response = self._client.post("/apply-template", json=request)
        except httpx.HTTPError as error:
            raise _gone(error) from error
        told = response.json()
        if not response.is_success:
            raise _refusal(told)
        return str(told["prompt"])


@contextmanager
def talk(path: Path, *, gpu: bool = True, context: int | None = None) -> Iterator[Talk]:
    """Serve a file to ourselves alone. Raises FileMissing, GgufUnusable, LlamaServerMissing, LlamaCppFailed."""
    if path.is_file() and not gguf_facts(path).template:
        raise GgufUnusable("the file has no chat template, so it cannot be talked to.", where=str(path))
    key = secrets.token_urlsafe()  # else whoever else is on this machine could listen in
    headers = {"Authorization": f"Bearer {key}"}
    with (
        LlamaServer(path, ServeConfig(port=0, api_key=key, num_ctx=context), gpu=gpu) as server,
        # A proxy from the environment is for the outside, and would not find this machine's loopback.
        httpx.Client(
            base_url=server.url, headers=headers, timeout=_LIMITS, limits=_ONE_EACH, trust_env=False
        ) as client,
    ):
        yield Talk(client)


def _pieces(response: httpx.Response) -> Iterator[str]:
    if not response.is_success:
        raise _refusal(json.loads(response.read()))
    for line in response.iter_lines():
        if line.startswith("data: {"):
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise _refusal(chunk)
            yield from (choice["delta"].get("content") or "" for choice in chunk["choices"])


def _gone(error: httpx.HTTPError) -> LlamaCppFailed:
    return LlamaCppFailed(f"llama-server went away: {error}")


def _refusal(told: dict[str, Any]) -> LlamaCppFailed:
    error = told["error"]
    if error.get("type") == "exceed_context_size_error":
        return LlamaCppFailed(f"the conversation is longer than its context: {error['message']}.", fix=_SHORTER)
    return LlamaCppFailed(f"llama-server: {error['message']}")
