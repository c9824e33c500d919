"""Compare the prompts that llama.cpp's own Jinja renders with those that the model was trained on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from bp_core.contract import Contract
from bp_core.errors import LlamaCppFailed, TemplateUnusable

from ..chat_template import ChatTemplate, Tools, Turns, first_difference
from ..dates import other_dates
from ..gguf.metadata import GgufFacts
from ..llama_cpp.client import ChatClient, chat_client
from ..parity import Check
from ..tool_talk import TOOL_TALKS, as_openai
from ..weights.model_files import special_token

NAME = "rendered prompts"
_CONTEXT = 256  # tokens; nothing is generated
_NO_SERVER = 'not compared with llama.cpp\'s own rendering: pip install "bp-export[serve]"'
_REFUSED = "(llama.cpp refuses this conversation)"
_SYSTEM = {"role": "system", "content": "Answer briefly."}
_ASKED = {"role": "user", "content": ' Hi é漢 "you" <b>?\n\nTwo & lines. '}
_TURNS = (
    _ASKED,
    {"role": "assistant", "content": "Yo.\n\nThere!"},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "{{ no }}"},
    {"role": "user", "content": "Why?"},
)
CONVERSATIONS: Mapping[str, tuple[Turns, Tools]] = {
    "a question": ([_ASKED], None),
    "a system message": ([_SYSTEM, _ASKED], None),
    "three turns": (_TURNS, None),
    "three turns, system message": ([_SYSTEM, *_TURNS], None),
    **TOOL_TALKS,
}


def check(path: Path, facts: GgufFacts, base: Path, contract: Contract | None) -> list[Check]:
    """Render each conversation in llama.cpp and with the training template. No check without a chat template.

    The training template is the contract's, else the file's, with the special tokens of the base's tokenizer. These
    differences are only warnings: with tools; in a date alone, because each program has its own day; and if
    llama-server is not installed, so nothing was compared.
    """
    template = contract.template if contract else facts.template
    if not (facts.template and template):
        return []
    if importlib.util.find_spec("xllamacpp") is None:
        return [Check(NAME, "not compared", 0, passed=True, warning=True, note=_NO_SERVER)]
    bos, eos = (special_token(base, name) or "" for name in ("bos_token", "eos_token"))
    try:
        added = facts.bos_token if facts.add_bos else ""
        expected = _rendered(ChatTemplate(template, bos, eos, added=added))
        with chat_client(path, gpu=False, context=_CONTEXT) as server:
            rendered = {name: _by_llama_cpp(server, name) for name in expected}
        return [_compare(expected, rendered)]
    except (LlamaCppFailed, TemplateUnusable) as error:
        return [Check(NAME, "cannot be rendered", 0, passed=False, note=error.message)]


def _rendered(chat: ChatTemplate) -> dict[str, str]:
    """Prompts by conversation, without those that the template refuses or that omit the tool."""
    prompts = {}
    for name, (turns, tools) in CONVERSATIONS.items():
        try:
            text = chat.prompt(turns, tools)
        except TemplateUnusable:
            continue
        if not tools or text != chat.prompt(turns):
            prompts[name] = text
    return prompts


def _by_llama_cpp(server: ChatClient, name: str) -> str:
    turns, tools = CONVERSATIONS[name]
    if not tools:
        return server.prompt(turns)
    try:
        return server.prompt(as_openai(turns), tools)
    except LlamaCppFailed:
        return _REFUSED


def _compare(expected: Mapping[str, str], rendered: Mapping[str, str]) -> Check:
    different = [name for name, text in rendered.items() if text != expected[name]]
    dates = {name: other_dates(expected[name], rendered[name]) for name in different}
    wrong = [name for name in different if not dates[name]]
    passed = all(CONVERSATIONS[name][1] for name in wrong)
    measured = f"{len(different)} of {len(rendered)} differ"
    if not different:
        return Check(NAME, measured, 0, passed=True, note=", ".join(rendered))
    if not wrong:
        ours, theirs = dates[different[0]] or ("", "")
        note = f"in the date alone: trained on {ours}, llama.cpp writes {theirs}"
        return Check(NAME, measured, 0, passed=True, warning=True, note=note)
    note = f"{wrong[0]}: {_difference(expected[wrong[0]], rendered[wrong[0]])}"
    return Check(NAME, measured, 0, passed=passed, warning=passed, note=note)


def _difference(expected: str, rendered: str) -> str:
    ours, theirs = first_difference(expected, rendered)
    return f"trained on …{ours!r}, llama.cpp writes …{theirs!r}"
