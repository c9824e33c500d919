"""Compare the prompts that llama.cpp's own Jinja renders with those that the model was trained on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from bp_core.contract import Contract
from bp_core.errors import LlamaCppFailed, TemplateUnusable

from ..chat_template import ChatTemplate, Tools, Turns, common_prefix
from ..gguf.metadata import GgufFacts
from ..llama_cpp.client import chat_client
from ..parity import Check
from ..weights.model_files import special_token

NAME = "rendered prompts"
_CONTEXT = 256  # tokens; nothing is generated
_SHOWN = 60  # characters to show of a difference
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
    """Render each conversation in llama.cpp and with the training template. No check without a chat template.

    The training template is the contract's, else the file's, with the special tokens of the base's tokenizer. These
    differences are only warnings: in a tool's definition; in a date, because llama.cpp gives Llama 3's templates
    today's and transformers does not; and if llama-server is not installed, so nothing was compared.
    """
    template = contract.template if contract else facts.template
    if not (facts.template and template):
        return []
    if importlib.util.find_spec("xllamacpp") is None:
        return [Check(NAME, "not compared", 0, passed=True, warning=True, note=_NO_SERVER)]
    bos, eos = (special_token(base, name) or "" for name in ("bos_token", "eos_token"))
    try:
        added = facts.bos_token if facts.add_bos else ""
        today = {"date_string": datetime.now().strftime("%d %b %Y")}
        plain = ChatTemplate(template, bos, eos, added=added)
        dated = ChatTemplate(template, bos, eos, added=added, variables=today)
        expected = _rendered(plain)
        with chat_client(path, gpu=False, context=_CONTEXT) as server:
            rendered = {name: server.prompt(*CONVERSATIONS[name]) for name in expected}
        return [_compare(expected, _rendered(dated), rendered)]
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


def _compare(expected: Mapping[str, str], dated: Mapping[str, str], rendered: Mapping[str, str]) -> Check:
    different = [name for name, text in rendered.items() if text != expected[name]]
    wrong = [name for name in different if rendered[name] != dated[name]]
    passed = all(CONVERSATIONS[name][1] for name in wrong)
    measured = f"{len(different)} of {len(rendered)} differ"
    if not different:
        return Check(NAME, measured, 0, passed=True, note=", ".join(rendered))
    shown = (wrong or different)[0]
    why = "" if wrong else f"{_DATE}; "
    note = f"{why}{shown}: {_difference(expected[shown], rendered[shown])}"
    return Check(NAME, measured, 0, passed=passed, warning=passed, note=note)


def _difference(expected: str, rendered: str) -> str:
    start = max(len(common_prefix(expected, rendered)) - _SHOWN // 2, 0)
    ours, theirs = (text[start : start + _SHOWN] for text in (expected, rendered))
    return f"trained on …{ours!r}, llama.cpp writes …{theirs!r}"
