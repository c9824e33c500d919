"""Talking to a model: a GGUF through llama.cpp's server, an adapter through the rail it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from bp_core.backends import choose_rail
from bp_core.contract import Contract
from bp_core.errors import FileMissing
from bp_core.events import Progress
from bp_core.rail import Rail
from bp_data import ChatTokenizer
from bp_eval.questions import cut_at
from bp_export import Engine, GgufFacts, gguf_facts
from bp_export.llama_cpp.client import chat_client

from ..models.targets import Artifact
from ..progress import Screen

Turn = dict[str, str]
_CONTEXT = 4096  # tokens; enough for a talk, small enough for any machine


class Speaker(Protocol):
    """Something that answers a conversation, telling each piece of text as it is made."""

    def answer(self, turns: list[Turn], limit: int, on_text: Callable[[str], None]) -> str: ...


@contextmanager
def speaker(name: str | Path, *, raw: bool = False, base: str | None = None) -> Iterator[Speaker]:
    """The model behind a name, open to talk to. `raw`: the file behind it goes on with each message as it is.

    An adapter is opened on `base`, if that is given. Raises TargetNotFound, AdapterUnusable, BadValue for a `base` that
    is not needed, and FileMissing for a `raw` that no .gguf is there for.
    """
    source = Artifact.find(name)
    if raw:
        with gguf(source.require_gguf()) as (engine, facts):
            yield _Completion(engine, facts)
        return
    if base is None and (file := source.gguf):
        with chat_client(file) as server:
            yield server
        return
    with Screen() as screen:
        job = source.job(screen.notify, base=base)
        _, rail, _ = choose_rail("auto")
        screen.notify(Progress("load the model", 0, 0))
        rail.open(job)
    with closing(rail):
        yield _RailSpeaker(rail, source.tokenizer(job.model), source.contract_on(job.model))


def user(text: str) -> Turn:
    """A user's turn."""
    return {"role": "user", "content": text}


@contextmanager
def gguf(path: Path) -> Iterator[tuple[Engine, GgufFacts]]:
    """A .gguf file, open in llama.cpp, and what it says of itself. Raises FileMissing, GgufUnusable."""
    if not path.is_file():
        raise FileMissing("there is no such file.", where=str(path))
    facts = gguf_facts(path)
    with Engine(path, context=min(_CONTEXT, facts.exact_context)) as engine:
        yield engine, facts


def completed(
    engine: Engine, facts: GgufFacts, text: str, limit: int, on_text: Callable[[str], None] | None = None
) -> str:
    """How the model goes on with a rendered text that ends where an answer begins; for a person to read."""
    # A template that writes the first token itself must not get a second one.
    written = bool(facts.bos_token) and text.startswith(facts.bos_token)
    tokens = engine.tokenize(text, add_special=facts.add_bos and not written)
    made = engine.generate(tokens, limit, on_piece=on_text)
    return made.text if made.stopped else cut_at(made.text, limit)


class _Completion:
    """Goes on with the text of the last message, without a chat template."""

    def __init__(self, engine: Engine, facts: GgufFacts) -> None:
        self.engine, self.facts = engine, facts

    def answer(self, turns: list[Turn], limit: int, on_text: Callable[[str], None]) -> str:
        return completed(self.engine, self.facts, turns[-1]["content"], limit, on_text)


class _RailSpeaker:
    def __init__(self, rail: Rail, tokenizer: ChatTokenizer, contract: Contract | None) -> None:
        self.rail, self.tokenizer = rail, tokenizer
        self.stop = tokenizer.stop_ids(contract)

    def answer(self, turns: list[Turn], limit: int, on_text: Callable[[str], None]) -> str:
        prompt = self.tokenizer.prompt(turns)
        made: list[int] = []
        told = ""

        def tell(token: int) -> None:
            nonlocal told
            made.extend([] if token in self.stop else [token])
            text = self.tokenizer.decode(made)
            if not text.endswith("\ufffd"):  # else a character is not complete yet
                on_text(text[len(told) :])
                told = text

        self.rail.generate(prompt, limit=limit, stop=self.stop, on_token=tell)
        return told
