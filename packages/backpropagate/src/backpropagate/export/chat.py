"""Talking to a model: a GGUF through llama.cpp's server, an adapter through the rail it was trained on."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from bp_core.backends import choose_rail
from bp_core.contract import Contract
from bp_core.errors import BadRow, FileMissing, FileUnreadable
from bp_core.events import Progress
from bp_core.rail import Pick, Rail
from bp_core.thought_marks import OPEN
from bp_data import ChatTokenizer
from bp_data.formats.fields import from_json
from bp_data.formats.records import Tools
from bp_data.formats.served_schema import served
from bp_data.formats.tool_calls import TOOL_FIX, read_tools, schemas_of
from bp_eval.questions import cut_at
from bp_export import Engine, GgufFacts, gguf_facts
from bp_export.llama_cpp.client import chat_client

from ..models.targets import Artifact
from ..progress import Screen
from .chat_config import ChatConfig
from .file_chat import file_speaker, no_tools
from .reply import Message, OnPiece, Reply, ReplyText
from .sampling import sampler

Turn = dict[str, str]
_CONTEXT = 4096  # tokens; enough for a talk, small enough for any machine


class Speaker(Protocol):
    """Something that answers a conversation, telling each piece of text as it is made."""

    def answer(self, turns: list[Turn], limit: int, on_text: Callable[[str], None]) -> str: ...


class Talker(Protocol):
    """Something that answers in parts: the thought, the text and the calls."""

    def reply(
        self, turns: Sequence[Message], config: ChatConfig, tools: Sequence[Message], on_piece: OnPiece
    ) -> Reply: ...


@contextmanager
def talker(
    name: str | Path, config: ChatConfig, tools: Tools, base: str | None = None
) -> Iterator[tuple[Talker, Tools]]:
    """The model behind a name, open for a chat, and `tools` as it learned them.

    An adapter is opened on `base`, if that is given. With `raw` the file behind it goes on with each message as it is.
    Raises as `speaker`, FileMissing for a `raw` that no .gguf is there for, and BadValue for tools that its chat
    template does not write.
    """
    source = Artifact.find(name)
    if config.raw:
        with gguf(source.require_gguf()) as (engine, facts):
            yield _Completion(engine, facts), ()
        return
    as_is = bool(source.contract and source.contract.tool_schema == "as-is")
    learned = tools if as_is else served(tools)
    if base is None and (file := source.gguf):
        with file_speaker(file, tools=bool(tools)) as server:
            yield server, learned
        return
    with _opened(source, base) as rail_speaker:
        if tools and not rail_speaker.tokenizer.knows_tools:
            raise no_tools(str(name))
        yield rail_speaker, learned


def read_tools_file(path: str | None) -> Tools:
    """The tools in a JSON file: a list, or an object with one. Raises FileMissing, FileUnreadable, BadRow."""
    if path is None:
        return ()
    file = Path(path)
    if not file.is_file():
        raise FileMissing("there is no such file.", where=path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileUnreadable(f"the file cannot be read ({error}).", where=path) from error
    value = from_json(text, "this file", path)
    found = read_tools(value if isinstance(value, dict) and "function" not in value else {"tools": value}, path)
    if not found:
        raise BadRow("there are no tools in this file.", where=path, fix=TOOL_FIX)
    return found


@contextmanager
def speaker(name: str | Path, base: str | None = None) -> Iterator[Speaker]:
    """The model behind a name, open to talk to. An adapter is opened on `base`, if that is given.

    Raises TargetNotFound, AdapterUnusable, and BadValue for a `base` that is not needed.
    """
    source = Artifact.find(name)
    if base is None and (file := source.gguf):
        with chat_client(file) as server:
            yield server
        return
    with _opened(source, base) as rail_speaker:
        yield rail_speaker


@contextmanager
def _opened(source: Artifact, base: str | None) -> Iterator[_RailSpeaker]:
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
    engine: Engine,
    facts: GgufFacts,
    text: str,
    limit: int,
    on_text: Callable[[str], None] | None = None,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """How the model goes on with a rendered text that ends where an answer begins; for a person to read."""
    # A template that writes the first token itself must not get a second one.
    written = bool(facts.bos_token) and text.startswith(facts.bos_token)
    tokens = engine.tokenize(text, add_special=facts.add_bos and not written)
    made = engine.generate(tokens, limit, temperature=temperature, seed=seed, on_piece=on_text)
    return made.text if made.stopped else cut_at(made.text, limit)


class _Completion:
    """Goes on with the text of the last message, without a chat template."""

    def __init__(self, engine: Engine, facts: GgufFacts) -> None:
        self.engine, self.facts = engine, facts

    def reply(self, turns: Sequence[Message], config: ChatConfig, tools: Sequence[Message], on_piece: OnPiece) -> Reply:
        seed = secrets.randbits(31) if config.seed is None else config.seed
        text = completed(
            self.engine,
            self.facts,
            turns[-1]["content"],
            config.max_tokens,
            lambda piece: on_piece("text", piece),
            temperature=config.temperature,
            seed=seed,
        )
        return Reply(text)


class _RailSpeaker:
    def __init__(self, rail: Rail, tokenizer: ChatTokenizer, contract: Contract | None) -> None:
        self.rail, self.tokenizer = rail, tokenizer
        self.stop = tokenizer.stop_ids(contract)

    def answer(self, turns: list[Turn], limit: int, on_text: Callable[[str], None]) -> str:
        told = 0

        def tell(text: str) -> None:
            nonlocal told
            on_text(text[told:])
            told = len(text)

        return self._generated(self.tokenizer.prompt(turns), limit, None, tell)

    def reply(self, turns: Sequence[Message], config: ChatConfig, tools: Sequence[Message], on_piece: OnPiece) -> Reply:
        prompt = self.tokenizer.prompt(turns, tools, config.think)
        opened = self.tokenizer.decode(prompt).rstrip().endswith(OPEN)
        parts = ReplyText(opened, schemas_of(tools), on_piece)
        pick = sampler(config.temperature, config.top_p, config.seed)
        return parts.done(self._generated(prompt, config.max_tokens, pick, parts.grown))

    def _generated(self, prompt: list[int], limit: int, pick: Pick, on_grown: Callable[[str], None]) -> str:
        """The text after a prompt; `on_grown` is given all of it each time that it has grown."""
        made: list[int] = []
        told = ""

        def tell(token: int) -> None:
            nonlocal told
            made.extend([] if token in self.stop else [token])
            text = self.tokenizer.decode(made)
            if not text.endswith("\ufffd"):  # else a character is not complete yet
                told = text
                on_grown(text)

        self.rail.generate(prompt, limit=limit, stop=self.stop, on_token=tell, pick=pick)
        return told
