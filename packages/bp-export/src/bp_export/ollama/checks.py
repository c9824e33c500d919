"""Does a model in Ollama behave as in its file? Its settings, the prompts it makes, and whether it stops."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import LlamaCppMissing, OllamaMismatch, TemplateUnusable
from bp_core.events import Notify, Progress

from ..chat_template import Chat, Turns
from ..gguf.metadata import GgufFacts
from ..llama_cpp.engine import Engine
from .client import Ollama
from .go_template import conversations
from .modelfile import Setup

QUESTION = {"role": "user", "content": "Please tell me in one short sentence what you can do for me."}
_LIMIT = 256  # tokens
_ROOM = 1024  # tokens; more than any of the conversations


@dataclass(frozen=True)
class Seen:
    """What was seen of a model: whether its prompts are right (None: it could not be seen), and how it answered."""

    rendered: bool | None
    ended: bool
    answer: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checks:
    """The checks of the model that `server` has under `name`, made of `file`. Raises OllamaMismatch."""

    file: Path
    facts: GgufFacts
    setup: Setup
    server: Ollama
    name: str

    def run(self, notify: Notify | None) -> Seen:
        self._settings_are_kept()
        rendered, notes = self._prompts_are_right()
        if notify:
            notify(Progress("ask Ollama once", 0, 0))
        ended, answer, more = self._answer_ends()
        return Seen(rendered, ended, answer, (*notes, *more))

    def _settings_are_kept(self) -> None:
        """Ollama must have kept what ends an answer, and the system message."""
        shown = self.server.show(self.name)
        said = str(shown.get("parameters") or "")
        lost = [
            stop for stop in self.setup.parameters.get("stop", []) if json.dumps(stop, ensure_ascii=False) not in said
        ]
        if lost or (shown.get("system") or "") != self.setup.system:
            what = f"the stop texts {lost}" if lost else "the system message"
            raise OllamaMismatch(f"Ollama did not keep {what}.", where=self.server.url)

    def _prompts_are_right(self) -> tuple[bool | None, list[str]]:
        """Compare what Ollama makes of conversations with what the file's own template makes of them."""
        if not self.facts.template:
            return None, ["the model has no chat template: Ollama hands it the bare text."]
        chat = Chat.of(self.facts)
        for turns in conversations()[-2:] + conversations()[:1]:
            try:
                wanted = chat.prompt(self._with_system(turns))
            except TemplateUnusable:
                continue  # no system message in this family
            made = self._rendered(turns)
            if made is None:
                return None, ["this Ollama cannot show the prompt it makes, so it was not compared."]
            if made.removeprefix(chat.added) != wanted:
                message = f"Ollama writes the prompt {made!r}; the model was trained on {wanted!r}."
                raise OllamaMismatch(message, where=self.server.url)
        return True, []

    def _rendered(self, turns: Turns) -> str | None:
        # Room for the whole conversation; and one token, for a server that does not know the switch and answers.
        room = max(self.setup.parameters.get("num_ctx", 0), _ROOM)
        request = {"model": self.name, "messages": list(turns), "_debug_render_only": True}
        told = self.server.chat({**request, "options": {"num_ctx": room, "num_predict": 1}}).get("_debug_info")
        return str(told["rendered_template"]) if told else None

    def _answer_ends(self) -> tuple[bool, str, list[str]]:
        """Ask once, greedily: the answer must end by itself, if in llama.cpp the file's does."""
        options = {"temperature": 0, "num_predict": _LIMIT}
        told = self.server.chat({"model": self.name, "messages": [QUESTION], "options": options})
        answer = str((told.get("message") or {}).get("content", ""))
        if told.get("done_reason") == "stop":
            return True, answer, []
        elsewhere = self._ends_in_llama_cpp()
        if elsewhere:
            raise OllamaMismatch(f"in Ollama the model does not stop: …{answer[-80:]!r}", where=self.server.url)
        there = "without llama.cpp here, it is open why" if elsewhere is None else "in llama.cpp it does not either"
        return False, answer, [f"an answer did not end within {_LIMIT} tokens; {there}."]

    def _ends_in_llama_cpp(self) -> bool | None:
        text = Chat.of(self.facts).prompt(self._with_system([QUESTION])) if self.facts.template else QUESTION["content"]
        try:
            with Engine(self.file, context=min(self.facts.exact_context, 4 * _LIMIT)) as engine:
                return engine.generate(engine.tokenize(text, add_special=self.facts.add_bos), _LIMIT).stopped
        except LlamaCppMissing:
            return None

    def _with_system(self, turns: Turns) -> Turns:
        """A conversation as Ollama sees it: the model's system message first, if it brings none."""
        begun = turns[0]["role"] == "system"
        return turns if begun or not self.setup.system else [{"role": "system", "content": self.setup.system}, *turns]
