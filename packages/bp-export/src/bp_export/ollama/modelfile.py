"""Ollama's settings for a model, and the Modelfile that holds them."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.contract import Contract
from bp_core.errors import BadValue, TemplateUnusable
from bp_core.folders import new_file
from bp_core.model_files import read_json

from ..config import NUM_CTX, ExportConfig
from ..gguf.metadata import facts_of
from ..gguf.reader import GgufFile
from .go_template import go_template
from .modelfile_parser import Instruction, parse

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
_INTEGER, _DECIMAL = re.compile(r"[+-]?\d+", re.A), re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.A | re.I)
_FLAGS = {"true": True, "false": False}
_UNUSED = {
    "template": "prompts are written by the file's own chat template",
    "message": "a registered model begins without messages",
    "adapter": "an adapter is merged into the file when it is exported",
    "renderer": "prompts are written by the file's own chat template",
    "parser": "answers are passed on as they are",
    "requires": "the check sees whether this Ollama runs the model",
}


@dataclass(frozen=True)
class OllamaSettings:
    """Settings of a model in Ollama. `parameters` has Ollama's names; a list is one PARAMETER line per item."""

    parameters: Mapping[str, Any]
    system: str = ""
    licence: str = ""

    def changed(self, config: ExportConfig) -> OllamaSettings:
        """With the user's own context length and system message."""
        parameters = dict(self.parameters)
        if config.num_ctx:
            parameters["num_ctx"] = config.num_ctx
        system = self.system if config.system is None else config.system
        return OllamaSettings(parameters, system, self.licence)


@dataclass(frozen=True)
class Origin:
    """The contract and base model of a GGUF, if they are known."""

    contract: Contract | None = None
    base: Path | None = None


def settings_for(gguf: GgufFile, origin: Origin) -> OllamaSettings:
    """The settings for a file, from its metadata and its origin."""
    facts = facts_of(gguf)
    sampling = read_json(origin.base / "generation_config.json", optional=True) if origin.base else {}
    parameters: dict[str, Any] = {"num_ctx": min(facts.exact_context, NUM_CTX)}
    # Ollama's own default penalises repetition, which changes the answers of a model that was not trained for it.
    parameters["repeat_penalty"] = 1.0
    for name, ollama_name in _SAMPLING.items():
        if sampling.get(name) is not None:
            parameters[ollama_name] = sampling[name]
    stop = origin.contract.stop if origin.contract else _ends(gguf)
    if stop:
        parameters["stop"] = list(stop)
    licence = _licence_in(origin.base) or str(gguf.fields.get("general.license", ""))
    return OllamaSettings(parameters, licence=licence)


def go_or_none(gguf: GgufFile) -> str | None:
    """The chat template as an exact Go template; None if there is none."""
    facts = facts_of(gguf)
    if not facts.template:
        return RAW
    try:
        return go_template(facts)
    except TemplateUnusable:
        return None


def place_for(model: Path) -> Path:
    """The path of a GGUF's Modelfile."""
    return model.with_suffix(".Modelfile")


def write_modelfile(gguf: GgufFile, settings: OllamaSettings, model: Path) -> Path:
    """Write the Modelfile of `model`. One edited by hand is kept; ours is written beside it as *.new.Modelfile."""
    place = place_for(model)
    if place.exists() and not _is_ours(place.read_text(encoding="utf-8", errors="replace")):
        place = model.with_suffix(".new.Modelfile")
    body = _text(model.name, settings, go_or_none(gguf))
    with new_file(place) as draft:
        draft.write_text(f"{_OURS}{_digest(body)}\n{body}", encoding="utf-8", newline="\n")
    return place


def read_modelfile(place: Path, templates: Collection[str] | None = None) -> OllamaSettings:
    """The parameters, system message and licence of a Modelfile.

    `templates` are those that say what Ollama does anyway; None: any. Raises BadValue for instructions that are not
    registered.
    """
    parameters: dict[str, Any] = {}
    texts = {"system": "", "license": ""}
    for instruction in parse(place.read_text(encoding="utf-8"), place):
        name, value = instruction.name, instruction.value
        if name in texts:
            texts[name] = value
        elif name == "parameter" and instruction.key == "stop":
            parameters.setdefault("stop", []).append(value)
        elif name == "parameter":
            parameters[instruction.key] = _number(value)
        elif name == "template" and (templates is None or value in templates):
            continue
        elif name in _UNUSED:
            _refuse_instruction(instruction, place)
    return OllamaSettings(parameters, texts["system"], texts["license"])


def _refuse_instruction(instruction: Instruction, place: Path) -> None:
    name = instruction.name.upper()
    message = f"{name} cannot be registered: {_UNUSED[instruction.name]}."
    fix = f"Remove {name} from it, or do it by hand: ollama create NAME -f {shlex.quote(str(place))}"
    raise BadValue(message, where=f"{place}:{instruction.line}", fix=fix)


def _text(file: str, settings: OllamaSettings, template: str | None) -> str:
    lines = ["# By hand: ollama create NAME -f THIS-FILE", f"FROM ./{file}"]
    if template is None or QUOTES in template:
        lines.append("# Without TEMPLATE, because this chat template has no exact Go form: needs Ollama 0.30 or newer.")
    else:
        lines.append(f"TEMPLATE {QUOTES}{template}{QUOTES}")
    for name, value in settings.parameters.items():
        lines += [f"PARAMETER {name} {_quoted(item)}" for item in (value if isinstance(value, list) else [value])]
    lines += [f"SYSTEM {QUOTES}{settings.system}{QUOTES}"] if settings.system else []
    lines += [f"LICENSE {QUOTES}{settings.licence}{QUOTES}"] if settings.licence else []
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    return f"{QUOTES}{value}{QUOTES}" if '"' in value or "\n" in value else f'"{value}"'


def _number(text: str) -> bool | int | float | str:
    if text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _ends(gguf: GgufFile) -> list[str]:
    """The texts of the file's end tokens."""
    tokens = gguf.field("tokenizer.ggml.tokens")
    numbers = [gguf.fields.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS]
    return list(dict.fromkeys(tokens[number] for number in numbers if number is not None and number < len(tokens)))


def _licence_in(base: Path | None) -> str:
    files = sorted(base.glob("LICENSE*")) if base else []
    return files[0].read_text(encoding="utf-8", errors="replace").replace(QUOTES, "'''") if files else ""


def _is_ours(text: str) -> bool:
    head, _, body = text.partition("\n")
    return head == _OURS + _digest(body)


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
