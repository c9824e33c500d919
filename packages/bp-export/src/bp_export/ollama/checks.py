"""Check that a model in Ollama behaves as in its file: its settings, its prompts, and that it stops."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bp_core.errors import LlamaCppFailed, LlamaCppMissing, OllamaMismatch, OllamaRegistrationFailed
from bp_core.events import Notify, Progress

from ..chat_template import ChatTemplate
from ..gguf.metadata import GgufFacts
from ..llama_cpp.engine import Engine
from ..replies import Reply
from .client import Ollama
from .modelfile import OllamaSettings
from .prompt_check import PromptCheck

QUESTION = {"role": "user", "content": "Please tell me in one short sentence what you can do for me."}
_LIMIT = 256  # tokens
_SHORT = 32  # tokens
_UNREAD = "this Ollama could not take apart what the model wrote; the newest may"


@dataclass(frozen=True)
class OllamaCheck:
    """The result: whether prompts are right, whether an answer ended, and its text. None: not seen.

    `tools`: tools, calls and results reach the model as its template writes them. `thinking`: Ollama tells thoughts
    from answers. Both are None where the template has none.
    """

    rendered: bool | None
    ended: bool | None
    answer: str
    notes: tuple[str, ...] = ()
    tools: bool | None = None
    thinking: bool | None = None


@dataclass(frozen=True)
class Checks:
    """Checks the model `name` on `server`, which was made from `file`. Raises OllamaMismatch."""

    file: Path
    facts: GgufFacts
    settings: OllamaSettings
    server: Ollama
    name: str
    notify: Notify | None = None

    def run(self) -> OllamaCheck:
        capabilities = self._settings_are_kept()
        prompts = self._prompts.run(capabilities)
        if self.notify:
            self.notify(Progress("ask Ollama once", 0, 0))
        ended, answer, more = self._answer_ends()
        if prompts.thinking:
            more += self._thoughts_can_be_left_out()
        notes = (*prompts.notes, *more)
        return OllamaCheck(prompts.rendered, ended, answer, notes, prompts.tools, prompts.thinking)

    @cached_property
    def _prompts(self) -> PromptCheck:
        return PromptCheck(self.server, self.name, self.facts, self.settings)

    def _settings_are_kept(self) -> list[str] | None:
        """Ollama must have kept the stop texts and the system message. Returns what it says that the model can do."""
        shown = self.server.show(self.name)
        parameters = str(shown.get("parameters") or "")
        stops = self.settings.parameters.get("stop", [])
        lost = [stop for stop in stops if json.dumps(stop, ensure_ascii=False) not in parameters]
        if lost or (shown.get("system") or "") != self.settings.system:
            what = f"the stop texts {lost}" if lost else "the system message"
            raise OllamaMismatch(f"Ollama did not keep {what}.", where=self.server.url)
        capabilities = shown.get("capabilities")
        return list(capabilities) if isinstance(capabilities, list) else None

    def _answer_ends(self) -> tuple[bool | None, str, list[str]]:
        """Ask once, greedily. The answer must end by itself if it does in llama.cpp."""
        try:
            reply = self._ask(_LIMIT)
        except OllamaRegistrationFailed as error:
            if "context" not in error.message:
                raise
            return None, "", [f"no answer was seen, because the prompt does not fit the context: {error.message}"]
        if not reply.read:
            return None, "", [f"no answer was seen, because {_UNREAD}."]
        answer = reply.text or reply.thought
        if reply.ended:
            return True, answer, []
        in_llama_cpp, why = self._ends_in_llama_cpp()
        if in_llama_cpp:
            raise OllamaMismatch(f"in Ollama the model does not stop: …{answer[-80:]!r}", where=self.server.url)
        return False, answer, [f"an answer did not end within {_LIMIT} tokens; {why}."]

    def _thoughts_can_be_left_out(self) -> list[str]:
        """With `think` false an answer has none."""
        reply = self._ask(_SHORT, think=False)
        if not reply.read:
            return [f"it was not seen whether thoughts can be switched off, because {_UNREAD}."]
        return ["thoughts come even where they are not wanted (think: false)."] if reply.thought else []

    def _ask(self, limit: int, think: bool | None = None) -> Reply:
        return self.server.reply(self.name, [QUESTION], limit=limit, think=think)

    def _ends_in_llama_cpp(self) -> tuple[bool | None, str]:
        """Whether the same answer ends in llama.cpp, and in words; None where that was not seen."""
        text = QUESTION["content"]
        if self.facts.template:
            text = ChatTemplate.of(self.facts).prompt(self._prompts.with_system([QUESTION]))
        context = min(len(text.encode()) + _LIMIT, self.facts.exact_context)  # a token is a byte or more
        try:
            with Engine(self.file, context=context) as engine:
                tokens = engine.tokenize(text, add_special=self.facts.add_bos)
                if len(tokens) + _LIMIT > engine.context:
                    return None, "in llama.cpp it was not seen, because the prompt nearly fills the model's context"
                stopped = engine.generate(tokens, _LIMIT).stopped
        except LlamaCppMissing:
            return None, "llama.cpp is not installed here to compare with"
        except LlamaCppFailed as error:
            return None, f"in llama.cpp it was not seen: {error.message}"
        return stopped, "it does not in llama.cpp either"
