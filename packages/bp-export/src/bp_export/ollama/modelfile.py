"""How a model is to run in Ollama, and the Modelfile that says so to those who register it by hand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bp_core.contract import Contract
from bp_core.errors import TemplateUnusable
from bp_core.folders import new_file
from bp_core.model_files import read_json

from ..config import NUM_CTX, ExportConfig
from ..gguf.metadata import facts_of
from ..gguf.reader import GgufFile
from .go_template import go_template

RAW = "{{ .Prompt }}"  # for a model that was trained on plain text
QUOTES = '"""'
_ENDS = ("eos", "eot", "eom")
# generation_config.json's names → Ollama's.
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
_OURS = "# Backpropagate wrote this; once it is changed by hand, it is left alone. sha256 of what follows: "
_INSTRUCTION = re.compile(
    r'^(?:PARAMETER[ \t]+(\w+)|(SYSTEM|LICENSE))[ \t]+(?:"""(.*?)"""|"([^"\n]*)"|([^\n]+))[ \t]*$', re.I | re.M | re.S
)


@dataclass(frozen=True)
class Setup:
    """What Ollama must be told besides the file. `parameters` has Ollama's names; a list is said once for each item."""

    parameters: Mapping[str, Any]
    system: str = ""
    licence: str = ""

    def changed(self, config: ExportConfig) -> Setup:
        """With what the user wants otherwise."""
        wanted = {"num_ctx": config.num_ctx} if config.num_ctx else {}
        return Setup(
            {**self.parameters, **wanted}, self.system if config.system is None else config.system, self.licence
        )


@dataclass(frozen=True)
class Origin:
    """Where a GGUF came from, as far as it is known."""

    contract: Contract | None = None
    base: Path | None = field(default=None)


def setup_of(gguf: GgufFile, origin: Origin) -> Setup:
    """What a file and its origin say."""
    facts = facts_of(gguf)
    sampling = read_json(origin.base / "generation_config.json", optional=True) if origin.base else {}
    parameters: dict[str, Any] = {"num_ctx": min(facts.exact_context, NUM_CTX)}
    # Ollama's own default punishes repetition, which changes what a model says; nobody trained it so.
    parameters["repeat_penalty"] = 1.0
    parameters |= {
        _SAMPLING[name]: value for name, value in sampling.items() if name in _SAMPLING and value is not None
    }
    stop = origin.contract.stop if origin.contract else _ends(gguf)
    licence = _licence_in(origin.base) or str(gguf.fields.get("general.license", ""))
    return Setup(parameters | ({"stop": list(stop)} if stop else {}), licence=licence)


def go_or_none(gguf: GgufFile) -> str | None:
    """The template in Go, as exact as the file's own; None if it has no such form."""
    facts = facts_of(gguf)
    if not facts.template:
        return RAW
    try:
        return go_template(facts)
    except TemplateUnusable:
        return None


def place_for(model: Path) -> Path:
    """Where the Modelfile of a GGUF lies."""
    return model.with_suffix(".Modelfile")


def write_modelfile(gguf: GgufFile, setup: Setup, model: Path) -> Path:
    """Write the Modelfile for `model`, whose bytes `gguf` has. One changed by hand stays, and gets a brother."""
    place = place_for(model)
    if place.exists() and not _is_ours(place.read_text(encoding="utf-8", errors="replace")):
        place = model.with_suffix(".new.Modelfile")
    body = _text(model.name, setup, go_or_none(gguf))
    with new_file(place) as draft:
        draft.write_text(f"{_OURS}{_sum(body)}\n{body}", encoding="utf-8", newline="\n")
    return place


def read_modelfile(place: Path) -> Setup:
    """The parameters, system message and licence of a Modelfile, ours or the user's."""
    found: dict[str, Any] = {}
    texts = {"SYSTEM": "", "LICENSE": ""}
    for name, kind, *forms in _INSTRUCTION.findall(place.read_text(encoding="utf-8")):
        value = next((form for form in forms if form), "")
        if kind:
            texts[kind.upper()] = value
        elif name == "stop":
            found.setdefault("stop", []).append(value)
        else:
            found[name] = _number(value)
    return Setup(found, texts["SYSTEM"], texts["LICENSE"])


def _text(file: str, setup: Setup, template: str | None) -> str:
    lines = ["# By hand: ollama create NAME -f THIS-FILE", f"FROM ./{file}"]
    if template is None or QUOTES in template:
        lines.append("# Without TEMPLATE, since this one has no exact form in Go: needs Ollama 0.30 or newer.")
    else:
        lines.append(f"TEMPLATE {QUOTES}{template}{QUOTES}")
    for name, value in setup.parameters.items():
        lines += [f"PARAMETER {name} {_quoted(item)}" for item in (value if isinstance(value, list) else [value])]
    lines += [f"SYSTEM {QUOTES}{setup.system}{QUOTES}"] if setup.system else []
    lines += [f"LICENSE {QUOTES}{setup.licence}{QUOTES}"] if setup.licence else []
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    if not isinstance(value, str):
        return str(value)
    return f"{QUOTES}{value}{QUOTES}" if '"' in value or "\n" in value else f'"{value}"'


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _ends(gguf: GgufFile) -> list[str]:
    """The texts that end an answer, of the tokens that the file names for it."""
    tokens = gguf.field("tokenizer.ggml.tokens")
    numbers = [gguf.fields.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS]
    return list(dict.fromkeys(tokens[number] for number in numbers if number is not None and number < len(tokens)))


def _licence_in(base: Path | None) -> str:
    files = sorted(base.glob("LICENSE*")) if base else []
    return files[0].read_text(encoding="utf-8", errors="replace").replace(QUOTES, "'''") if files else ""


def _is_ours(text: str) -> bool:
    head, _, body = text.partition("\n")
    return head == _OURS + _sum(body)


def _sum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
