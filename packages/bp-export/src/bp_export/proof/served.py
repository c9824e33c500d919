"""The proof of what comes back: a file asked through llama-server, and through Ollama where it is there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bp_core.events import Notify

from ..llama_cpp.client import chat_client
from ..ollama.client import Ollama
from ..parity import Check
from ..progress import tracked
from ..replies import Ask, CallQuestion, check_calls, check_thoughts
from ..tool_talk import as_openai

LIMIT = 256  # tokens of an answer


def check_served(
    file: Path,
    questions: Sequence[CallQuestion],
    *,
    ollama_name: str | None = None,
    limit: int = LIMIT,
    gpu: bool = True,
    notify: Notify | None = None,
) -> list[Check]:
    """Ask each question greedily, and compare the calls. `ollama_name`: the file's model in a running Ollama.

    Raises LlamaServerMissing, LlamaCppFailed, GgufUnusable, and the errors of Ollama.
    """
    checks: list[Check] = []
    with chat_client(file, gpu=gpu) as client:
        checks += _asked("llama-server", partial(client.reply, limit=limit), questions, notify)
    if ollama_name:
        with Ollama() as server:
            ask = partial(server.reply, ollama_name, limit=limit)
            checks += _asked("Ollama", ask, questions, notify)
            server.unload(ollama_name)
    return checks


def _asked(where: str, ask: Ask, questions: Sequence[CallQuestion], notify: Notify | None) -> list[Check]:
    stage = f"ask through {where}"
    openai = where == "llama-server"
    replies = []
    for question in tracked(questions, stage, notify):
        turns = as_openai(question.turns) if openai else question.turns
        replies.append(ask(turns, question.tools))
    return [*check_calls(where, questions, replies), *check_thoughts(where, replies)]
