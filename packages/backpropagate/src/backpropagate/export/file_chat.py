"""Talking to a .gguf through a llama-server of our own, which takes thoughts and calls out of the answers itself."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bp_core.errors import BadValue, GgufUnusable, LlamaCppFailed
from bp_data.tokenizer.thoughts_template import SWITCH
from bp_export import gguf_facts
from bp_export.config import ServeConfig
from bp_export.llama_cpp.server import LlamaServer

from .chat_config import ChatConfig
from .reply import Message, OnPiece, Reply

_TIMES = httpx.Timeout(None, connect=5.0)  # a large model may take minutes to read a long prompt
_ONE_EACH = httpx.Limits(max_keepalive_connections=0)  # the server closes connections that are idle for seconds
_SHORTER = "Start over with /new, or serve the file with more: backprop serve FILE --num-ctx 16384"


class FileSpeaker:
    """Answers through the server's OpenAI interface."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def reply(self, turns: Sequence[Message], config: ChatConfig, tools: Sequence[Message], on_piece: OnPiece) -> Reply:
        """The answer, told piece by piece. Raises LlamaCppFailed."""
        answer = _Streamed(on_piece)
        body = _request(turns, config, tools)
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if not response.is_success:
                    raise _refusal(json.loads(response.read()))
                for line in response.iter_lines():
                    if line.startswith("data: {"):
                        answer.add(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError as error:
            raise LlamaCppFailed(f"the connection to llama-server broke: {error}") from error
        return answer.reply()


@contextmanager
def file_speaker(path: Path, *, tools: bool) -> Iterator[FileSpeaker]:
    """A server for a file, open to talk to. Raises FileMissing, GgufUnusable, LlamaServerMissing, LlamaCppFailed, and
    BadValue for `tools` that its chat template does not write."""
    template = gguf_facts(path).template
    if not template:
        fix = f"Let it go on with a text instead: backprop chat {shlex.quote(str(path))} --raw"
        raise GgufUnusable("the file has no chat template, so it cannot chat.", where=str(path), fix=fix)
    if tools and "tools" not in template:
        raise no_tools(str(path))
    key = secrets.token_urlsafe()  # keeps other users of this machine out
    headers = {"Authorization": f"Bearer {key}"}
    with (
        LlamaServer(path, ServeConfig(port=0, api_key=key)) as server,
        # A proxy from the environment cannot reach this machine's loopback address.
        httpx.Client(base_url=server.url, headers=headers, timeout=_TIMES, limits=_ONE_EACH, trust_env=False) as client,
    ):
        yield FileSpeaker(client)


def no_tools(where: str) -> BadValue:
    """The error for tools that a model would never see."""
    fix = "Train it on rows with tools (--tools-template hermes), or leave --tools out."
    return BadValue("its chat template has no tools.", where=where, fix=fix)


def _request(turns: Sequence[Message], config: ChatConfig, tools: Sequence[Message]) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": list(turns), "max_tokens": config.max_tokens, "temperature": config.temperature}
    if config.temperature:
        # No other rule than that of `sampling`; llama-server has some of its own by default.
        body |= {"top_p": config.top_p, "top_k": 0, "min_p": 0.0}
    if config.seed is not None:
        body["seed"] = config.seed
    if tools:
        body["tools"] = list(tools)
    if not config.think:
        body["chat_template_kwargs"] = {SWITCH: False}
    return body | {"stream": True}


class _Streamed:
    """Puts the pieces of a streamed answer together."""

    def __init__(self, on_piece: OnPiece) -> None:
        self._on_piece = on_piece
        self._thought, self._text = "", ""
        self._calls: dict[int, list[str]] = {}  # name and arguments by the number of the call

    def add(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise _refusal(chunk)
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if thought := delta.get("reasoning_content"):
                self._thought += thought
                self._on_piece("thought", thought)
            if text := delta.get("content"):
                self._text += text
                self._on_piece("text", text)
            for call in delta.get("tool_calls") or ():
                parts = self._calls.setdefault(call.get("index", 0), ["", ""])
                function = call.get("function") or {}
                parts[0] += function.get("name") or ""
                parts[1] += function.get("arguments") or ""

    def reply(self) -> Reply:
        calls = [(name, _arguments(text)) for name, text in self._calls.values()]
        closed = bool(self._text or calls or not self._thought)
        return Reply(self._text.strip(), self._thought.strip(), calls, closed)


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call that was cut short may be no JSON: they are shown as text."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"": text}
    return value if isinstance(value, dict) else {"": value}


def _refusal(body: dict[str, Any]) -> LlamaCppFailed:
    error = body["error"]
    if error.get("type") == "exceed_context_size_error":
        return LlamaCppFailed(f"the conversation is longer than the context: {error['message']}.", fix=_SHORTER)
    return LlamaCppFailed(f"llama-server: {error['message']}")
