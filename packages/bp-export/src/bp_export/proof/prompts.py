"""Prompts: those that llama.cpp's own Jinja makes of a file, against those that the model was trained on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from bp_core.contract import Contract
from bp_core.errors import LlamaCppFailed, TemplateUnusable

from ..chat_template import Chat, Tools, Turns
from ..gguf.metadata import GgufFacts
from ..llama_cpp.client import talk
from ..parity import Check
from ..weights.model_files import special_token

NAME = "rendered prompts"
_CONTEXT = 256  # nothing is computed
_SHOWN = 60  # characters of a difference
_NO_SERVER = 'not compared with llama.cpp\'s own rendering: pip install "bp-export[serve]"'
_DATE = "llama.cpp writes today's date where training had a fixed one"
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
    tokenizer. A tool that differs is a warning only, and so is a date: to Llama 3's templates llama.cpp gives today's,
    where transformers leaves it to them. Without a llama-server nothing is compared: a warning too.
    """
    template = contract.template if contract else facts.template
    if not (facts.template and template):
        return []
    if importlib.util.find_spec("xllamacpp") is None:
        return [Check(NAME, "not seen", 0, passed=True, warning=True, note=_NO_SERVER)]
    bos, eos = (special_token(base, name) or "" for name in ("bos_token", "eos_token"))
    try:
        added = facts.bos_token if facts.add_bos else ""
        plain, dated = (Chat(template, bos, eos, added=added, variables=given) for given in ({}, _today()))
        with talk(path, gpu=False, context=_CONTEXT) as server:
            made = {name: server.prompt(*CONVERSATIONS[name]) for name in _wanted(plain)}
        return [_judged(_wanted(plain), _wanted(dated), made)]
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


def _judged(wanted: Mapping[str, str], dated: Mapping[str, str], made: Mapping[str, str]) -> Check:
    different = [name for name, text in made.items() if text != wanted[name]]
    wrong = [name for name in different if made[name] != dated[name]]
    passed = all(CONVERSATIONS[name][1] for name in wrong)
    measured = f"{len(different)} of {len(made)} differ"
    if not different:
        return Check(NAME, measured, 0, passed=True, note=", ".join(made))
    shown = (wrong or different)[0]
    why = "" if wrong else f"{_DATE}; "
    note = f"{why}{shown}: {_difference(wanted[shown], made[shown])}"
    return Check(NAME, measured, 0, passed=passed, warning=passed, note=note)


def _today() -> dict[str, str]:
    return {"date_string": datetime.now().strftime("%d %b %Y")}


def _difference(wanted: str, found: str) -> str:
    place = next((at for at, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), 0)
    place = place or min(len(wanted), len(found))
    ours, theirs = (text[max(place - _SHOWN // 2, 0) :][:_SHOWN] for text in (wanted, found))
    return f"trained on …{ours!r}, llama.cpp writes …{theirs!r}"
