"""Check that a model in Ollama behaves as in its file: its settings, its prompts, and that it stops."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import LlamaCppMissing, OllamaMismatch, TemplateUnusable
from bp_core.events import Notify, Progress

from ..chat_template import ChatTemplate, Turns
from ..gguf.metadata import GgufFacts
from ..llama_cpp.engine import Engine
from .client import Ollama
from .go_template import conversations
from .modelfile import OllamaSettings

QUESTION = {"role": "user", "content": "Please tell me in one short sentence what you can do for me."}
_LIMIT = 256  # tokens
_ROOM = 1024  # tokens; more than any of the conversations


@dataclass(frozen=True)
class OllamaCheck:
    """The result: whether prompts are right (None: could not be checked), whether an answer ended, and its text."""

    rendered: bool | None
    ended: bool
    answer: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checks:
    """Checks the model `name` on `server`, which was made from `file`. Raises OllamaMismatch."""

    file: Path
    facts: GgufFacts
    settings: OllamaSettings
    server: Ollama
    name: str

    def run(self, notify: Notify | None) -> OllamaCheck:
        self._settings_are_kept()
        rendered, notes = self._prompts_are_right()
        if notify:
            notify(Progress("ask Ollama once", 0, 0))
        ended, answer, more = self._answer_ends()
        return OllamaCheck(rendered, ended, answer, (*notes, *more))

    def _settings_are_kept(self) -> None:
        """Ollama must have kept the stop texts and the system message."""
        shown = self.server.show(self.name)
        parameters = str(shown.get("parameters") or "")
        stops = self.settings.parameters.get("stop", [])
        lost = [stop for stop in stops if json.dumps(stop, ensure_ascii=False) not in parameters]
        if lost or (shown.get("system") or "") != self.settings.system:
            what = f"the stop texts {lost}" if lost else "the system message"
            raise OllamaMismatch(f"Ollama did not keep {what}.", where=self.server.url)

    def _prompts_are_right(self) -> tuple[bool | None, list[str]]:
        """Compare Ollama's prompts with those of the file's own template."""
        if not self.facts.template:
            return None, ["the model has no chat template: Ollama passes it the plain text."]
        chat = ChatTemplate.of(self.facts)
        for turns in conversations()[-2:] + conversations()[:1]:
            try:
                expected = chat.prompt(self._with_system(turns))
            except TemplateUnusable:
                continue  # this template refuses a system message
            rendered = self._rendered(turns)
            if rendered is None:
                return None, ["this version of Ollama cannot show its prompts, so they were not compared."]
            if rendered.removeprefix(chat.added) != expected:
                message = f"Ollama writes the prompt {rendered!r}; the model was trained on {expected!r}."
                raise OllamaMismatch(message, where=self.server.url)
        return True, []

    def _rendered(self, turns: Turns) -> str | None:
        # num_predict: a server that does not know _debug_render_only answers, with one token.
        context = max(self.settings.parameters.get("num_ctx", 0), _ROOM)
        request = {"model": self.name, "messages": list(turns), "_debug_render_only": True}
        debug = self.server.chat({**request, "options": {"num_ctx": context, "num_predict": 1}}).get("_debug_info")
        return str(debug["rendered_template"]) if debug else None

    def _answer_ends(self) -> tuple[bool, str, list[str]]:
        """Ask once, greedily. The answer must end by itself if it does in llama.cpp."""
        options = {"temperature": 0, "num_predict": _LIMIT}
        response = self.server.chat({"model": self.name, "messages": [QUESTION], "options": options})
        answer = str((response.get("message") or {}).get("content", ""))
        if response.get("done_reason") == "stop":
            return True, answer, []
        ends_in_llama_cpp = self._ends_in_llama_cpp()
        if ends_in_llama_cpp:
            raise OllamaMismatch(f"in Ollama the model does not stop: …{answer[-80:]!r}", where=self.server.url)
        why = "it does not in llama.cpp either"
        if ends_in_llama_cpp is None:
            why = "llama.cpp is not installed here to compare with"
        return False, answer, [f"an answer did not end within {_LIMIT} tokens; {why}."]

    def _ends_in_llama_cpp(self) -> bool | None:
        """Whether the same answer ends in llama.cpp; None without llama.cpp."""
        text = QUESTION["content"]
        if self.facts.template:
            text = ChatTemplate.of(self.facts).prompt(self._with_system([QUESTION]))
        try:
            with Engine(self.file, context=min(self.facts.exact_context, 4 * _LIMIT)) as engine:
                return engine.generate(engine.tokenize(text, add_special=self.facts.add_bos), _LIMIT).stopped
        except LlamaCppMissing:
            return None

    def _with_system(self, turns: Turns) -> Turns:
        """The conversation, with the model's system message first if it has none."""
        if turns[0]["role"] == "system" or not self.settings.system:
            return turns
        return [{"role": "system", "content": self.settings.system}, *turns]
