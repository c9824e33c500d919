"""The proof of what comes back: a file asked through llama-server, and through Ollama where it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bp_core.errors import GgufUnusable, LlamaCppFailed, LlamaServerMissing
from bp_core.events import Notify

from ..llama_cpp.client import chat_client
from ..ollama.client import Ollama
from ..parity import Check
from ..progress import tracked
from ..replies import Ask, Reply, ServedQuestion, check_calls, check_read, check_thoughts
from ..tool_talk import as_openai

LIMIT = 256  # tokens of an answer


def check_served(
    file: Path,
    questions: Sequence[ServedQuestion],
    *,
    ollama_name: str | None = None,
    limit: int = LIMIT,
    gpu: bool = True,
    notify: Notify | None = None,
) -> list[Check]:
    """Ask each question greedily, and compare calls and thoughts. `ollama_name`: the file's model in a running Ollama.

    Where a thought is expected, it is asked a second time, with thoughts switched off.

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


@dataclass(frozen=True)
class ServedProof:
    """The part of an export's proof that asks the finished file held-out rows, through llama-server.

    `missing` says why there are no questions, although tools or thoughts were learned.
    """

    questions: Sequence[ServedQuestion] = ()
    missing: str = ""

    def checks(self, file: Path, notify: Notify | None) -> list[Check]:
        """None of them fails the proof, also where the server cannot be asked."""
        if not self.questions:
            return [_not_asked(self.missing)]
        try:
            return check_served(file, self.questions, notify=notify)
        except LlamaServerMissing as error:
            return [_not_asked(f"{error.message} {error.fix}")]
        except (GgufUnusable, LlamaCppFailed) as error:
            return [_not_asked(error.message)]


def _not_asked(why: str) -> Check:
    return Check("held-out rows through llama-server", "not asked", None, passed=True, warning=True, note=why)


def _asked(where: str, ask: Ask, questions: Sequence[ServedQuestion], notify: Notify | None) -> list[Check]:
    openai = where == "llama-server"
    replies: list[Reply] = []
    unthinking: list[Reply] = []
    for question in tracked(questions, f"ask through {where}", notify):
        turns = as_openai(question.turns) if openai else question.turns
        replies.append(ask(turns, question.tools))
        if question.thinks:
            unthinking.append(ask(turns, question.tools, think=False))
    calls = check_calls(where, questions, replies)
    thoughts = check_thoughts(where, questions, replies, unthinking)
    return [*check_read(where, [*replies, *unthinking]), *calls, *thoughts]
