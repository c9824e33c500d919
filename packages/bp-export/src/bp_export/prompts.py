"""Prompts: those that llama.cpp's own Jinja makes of a file, against those that the model was trained on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from bp_core.contract import Contract
from bp_core.errors import LlamaCppFailed, TemplateUnusable

from .chat import Chat, Tools, Turns
from .facts import GgufFacts
from .hf_files import special_token
from .parity import Check
from .talk import Talk, talk

NAME = "rendered prompts"
_CONTEXT = 256  # nothing is computed
_SHOWN = 60  # characters of a difference
_NO_SERVER = 'not compared with llama.cpp\'s own rendering: pip install "bp-export[serve]"'
_SYSTEM = {"role": "system", "content": "Answer briefly."}
_ASKED = {"role": "user", "content": ' Hi é漢 "you" <b>?\n\nTwo & lines. '}
_TURNS = (
    _ASKED,
    {"role": "assistant", "content": "Yo.\n\nThere!"},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "{{ no }}"},
    {"role": "user", "content": "Why?"},
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather in a "place".',
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CONVERSATIONS: Mapping[str, tuple[Turns, Tools]] = {
    "a question": ([_ASKED], None),
    "a system message": ([_SYSTEM, _ASKED], None),
    "three turns": (_TURNS, None),
    "three turns, system message": ([_SYSTEM, *_TURNS], None),
    "a tool": ([_ASKED], [_TOOL]),
}


def check(path: Path, facts: GgufFacts, base: Path, contract: Contract | None) -> list[Check]:
    """One check, if the file can be talked to: every conversation that the template takes, rendered by both.

    What rendered in training is the contract's template, else the file's, with the special tokens of the base's
    tokenizer. A tool that differs is a warning only. Without a llama-server nothing is compared: a warning too.
    """
    template = contract.template if contract else facts.template
    if not (facts.template and template):
        return []
    if importlib.util.find_spec("xllamacpp") is None:
        return [Check(NAME, "not seen", 0, passed=True, warning=True, note=_NO_SERVER)]
    bos, eos = (special_token(base, name) or "" for name in ("bos_token", "eos_token"))
    try:
        chat = Chat(template, bos, eos, added=facts.bos_token if facts.add_bos else "")
        with talk(path, gpu=False, context=_CONTEXT) as server:
            return [_judged({name: (wanted, _made(server, name)) for name, wanted in _wanted(chat).items()})]
    except (LlamaCppFailed, TemplateUnusable) as error:
        return [Check(NAME, "cannot be rendered", 0, passed=False, note=error.message)]


def _wanted(chat: Chat) -> dict[str, str]:
    """By conversation; without those that the template refuses, or in which it leaves out the tool."""
    found = {}
    for name, (turns, tools) in CONVERSATIONS.items():
        try:
            text = chat.prompt(turns, tools)
        except TemplateUnusable:
            continue
        if not tools or text != chat.prompt(turns):
            found[name] = text
    return found


def _made(server: Talk, name: str) -> str:
    turns, tools = CONVERSATIONS[name]
    return server.prompt(turns, tools)


def _judged(made: Mapping[str, tuple[str, str]]) -> Check:
    different = [name for name, (wanted, found) in made.items() if wanted != found]
    plain = [name for name in different if not CONVERSATIONS[name][1]]
    note = ", ".join(made) if not different else _difference(different[0], *made[different[0]])
    measured = f"{len(different)} of {len(made)} differ"
    return Check(NAME, measured, 0, passed=not plain, warning=bool(different) and not plain, note=note)


def _difference(name: str, wanted: str, found: str) -> str:
    place = next((at for at, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), 0)
    place = place or min(len(wanted), len(found))
    ours, theirs = (text[max(place - _SHOWN // 2, 0) :][:_SHOWN] for text in (wanted, found))
    return f"{name}: trained on …{ours!r}, llama.cpp writes …{theirs!r}"
