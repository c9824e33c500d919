"""Talking to a .gguf through a llama-server of our own, which takes thoughts and calls out of the answers itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bp_core.errors import BadValue
from bp_core.thought_marks import SWITCH
from bp_export import gguf_facts
from bp_export.llama_cpp.client import ChatClient, chat_client

from .chat_config import ChatConfig
from .reply import Message, OnPiece, Reply


class FileSpeaker:
    """Answers through the server's OpenAI interface."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client

    def reply(self, turns: Sequence[Message], config: ChatConfig, tools: Sequence[Message], on_piece: OnPiece) -> Reply:
        """The answer, told piece by piece. Raises LlamaCppFailed."""
        answer = _Streamed(on_piece)
        for delta in self._client.deltas(_request(turns, config, tools)):
            answer.add(delta)
        return answer.reply()


@contextmanager
def file_speaker(path: Path, *, tools: bool) -> Iterator[FileSpeaker]:
    """A server for a file, open to talk to. Raises FileMissing, GgufUnusable, LlamaServerMissing, LlamaCppFailed, and
    BadValue for `tools` that its chat template does not write."""
    if tools and "tools" not in (gguf_facts(path).template or "tools"):
        raise no_tools(str(path))
    with chat_client(path) as client:
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
    return body


class _Streamed:
    """Puts the pieces of a streamed answer together."""

    def __init__(self, on_piece: OnPiece) -> None:
        self._on_piece = on_piece
        self._thought, self._text = "", ""
        self._calls: dict[int, list[str]] = {}  # name and arguments by the number of the call

    def add(self, delta: dict[str, Any]) -> None:
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
