"""Chat with a GGUF through llama.cpp's server, which caches the conversation so far."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bp_core.errors import GgufUnusable, LlamaCppFailed
from bp_core.thought_marks import SWITCH

from ..chat_template import Tools, Turns
from ..config import ServeConfig
from ..gguf.metadata import gguf_facts
from ..replies import Reply, call_of, cannot_read
from .server import LlamaServer

_SHORTER = "Start over with /new, or serve the file with more: backprop serve FILE --num-ctx 16384"
_ONE_EACH = httpx.Limits(max_keepalive_connections=0)  # the server closes connections that are idle for seconds
_LIMITS = httpx.Timeout(None, connect=5.0)  # a large model may take minutes to read a long prompt


class ChatClient:
    """A client of our own llama-server."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def answer(self, turns: Turns, limit: int, on_text: Callable[[str], None]) -> str:
        """The greedy answer, at most `limit` tokens; `on_text` gets it piece by piece. Raises LlamaCppFailed."""
        # Reasoning was trained too, so it is shown as the model writes it.
        request = {"messages": turns, "max_tokens": limit, "temperature": 0, "reasoning_format": "none"}
        pieces: list[str] = []
        for delta in self.deltas(request):
            if piece := delta.get("content"):
                pieces.append(piece)
                on_text(piece)
        return "".join(pieces)

    def deltas(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What each piece of a streamed answer adds to it. Raises LlamaCppFailed."""
        try:
            with self._client.stream("POST", "/v1/chat/completions", json={**request, "stream": True}) as response:
                yield from _deltas(response)
        except httpx.HTTPError as error:
            raise _disconnected(error) from error

    def reply(self, turns: Turns, tools: Tools = None, *, limit: int, think: bool | None = None) -> Reply:
        """The greedy answer in its parts. `think` is passed on to the chat template. Raises LlamaCppFailed."""
        request: dict[str, Any] = {"messages": list(turns), "max_tokens": limit, "temperature": 0}
        request |= {"tools": list(tools)} if tools else {}
        request |= {"chat_template_kwargs": {SWITCH: think}} if think is not None else {}
        try:
            (choice,) = self._post("/v1/chat/completions", request)["choices"]
        except LlamaCppFailed as error:
            if cannot_read(error.message):
                return Reply("", read=False)
            raise
        message = choice["message"]
        calls = tuple(call_of(call["function"]) for call in message.get("tool_calls") or ())
        ended = choice["finish_reason"] != "length"
        return Reply(message.get("content") or "", message.get("reasoning_content") or "", calls, ended)

    def prompt(self, turns: Turns, tools: Tools = None) -> str:
        """The prompt that llama.cpp's Jinja renders, without the BOS token that it adds. Raises LlamaCppFailed."""
        request = {"messages": turns} | ({"tools": tools} if tools else {})
        return str(self._post("/apply-template", request)["prompt"])

    def _post(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        try:
            response = self._client.post(path, json=request)
        except httpx.HTTPError as error:
            raise _disconnected(error) from error
        body: dict[str, Any] = response.json()
        if not response.is_success:
            raise _refusal(body)
        return body


@contextmanager
def chat_client(path: Path, *, gpu: bool = True, context: int | None = None) -> Iterator[ChatClient]:
    """Start a private server for a file. Raises FileMissing, GgufUnusable, LlamaServerMissing, LlamaCppFailed."""
    facts = gguf_facts(path)
    if not facts.template:
        fix = f"Let it go on with a text instead: backprop chat {shlex.quote(str(path))} --raw"
        raise GgufUnusable("the file has no chat template, so it cannot chat.", where=str(path), fix=fix)
    if context is not None:
        context = min(context, facts.context_length)
    key = secrets.token_urlsafe()  # keeps other users of this machine out
    headers = {"Authorization": f"Bearer {key}"}
    with (
        LlamaServer(path, ServeConfig(port=0, api_key=key, num_ctx=context), gpu=gpu) as server,
        # A proxy from the environment cannot reach this machine's loopback address.
        httpx.Client(
            base_url=server.url, headers=headers, timeout=_LIMITS, limits=_ONE_EACH, trust_env=False
        ) as client,
    ):
        yield ChatClient(client)


def _deltas(response: httpx.Response) -> Iterator[dict[str, Any]]:
    if not response.is_success:
        raise _refusal(json.loads(response.read()))
    for line in response.iter_lines():
        if line.startswith("data: {"):
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise _refusal(chunk)
            yield from (choice["delta"] for choice in chunk["choices"])


def _disconnected(error: httpx.HTTPError) -> LlamaCppFailed:
    return LlamaCppFailed(f"the connection to llama-server broke: {error}")


def _refusal(body: dict[str, Any]) -> LlamaCppFailed:
    error = body["error"]
    if error.get("type") == "exceed_context_size_error":
        return LlamaCppFailed(f"the conversation is longer than the context: {error['message']}.", fix=_SHORTER)
    return LlamaCppFailed(f"llama-server: {error['message']}")
