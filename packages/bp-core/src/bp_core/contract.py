"""The template contract: what rendering promised at training time, and export must reproduce or fail."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .choices import ToolSchema, ToolsTemplate
from .errors import AdapterUnusable

CONTRACT_FILE = "contract.json"
VERSION = 1
_ADDED = ("tools_template", "tool_schema", "adds_thoughts")
Bos = Literal["template", "tokenizer", "none"]  # who writes the beginning-of-sequence token


@dataclass(frozen=True)
class Contract:
    """How text became tokens. Written beside the adapter as contract.json.

    `template` is the Jinja chat template in full ("" if only raw text was trained). `bos` says who puts the
    beginning-of-sequence token first: the template's own text, the tokenizer, or nobody. `terminators` are the ids
    that end a trained turn, `stop` the same as text.

    `tools_template` names the form of tools that was added to the base's template, `tool_schema` how schemas of tools
    were written, "" where no row had tools. `adds_thoughts`: the template learned to read them.
    """

    template: str
    bos: Bos
    terminators: tuple[int, ...]
    stop: tuple[str, ...]
    tools_template: ToolsTemplate = "none"
    tool_schema: ToolSchema | Literal[""] = ""
    adds_thoughts: bool = False

    @property
    def template_sha256(self) -> str:
        return hashlib.sha256(self.template.encode()).hexdigest()

    def conflicts(self, other: Contract) -> list[str]:
        """Why adapters with these two contracts cannot be one; nothing where they can. Raw text goes with all."""
        if not (self.template and other.template):
            return []
        told = {
            "the beginning-of-sequence token is written by": (self.bos, other.bos),
            "tools are written in the form of": _both(self.tools_template, other.tools_template, "none"),
            "the schemas of tools are": _both(self.tool_schema, other.tool_schema, ""),
        }
        return [
            f"{what} {one} in one and {another} in the other" for what, (one, another) in told.items() if one != another
        ]

    def as_dict(self) -> dict[str, Any]:
        return {"version": VERSION, **dataclasses.asdict(self), "template_sha256": self.template_sha256}

    @classmethod
    def read(cls, folder: Path) -> Contract | None:
        """The contract in an adapter folder; None for an adapter from elsewhere. Raises AdapterUnusable if damaged."""
        path = folder / CONTRACT_FILE
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            more = {name: value[name] for name in _ADDED if name in value}  # which older contracts lack
            contract = cls(value["template"], value["bos"], tuple(value["terminators"]), tuple(value["stop"]), **more)
        except (ValueError, KeyError, TypeError) as error:
            raise AdapterUnusable("the contract cannot be read.", where=str(path)) from error
        if value.get("version") != VERSION or value.get("template_sha256") != contract.template_sha256:
            raise AdapterUnusable("the contract was altered, or is of another version.", where=str(path))
        return contract


def _both(one: str, other: str, nothing: str) -> tuple[str, str]:
    """Two values, or the same one twice where the other is nothing."""
    return (one if one != nothing else other, other if other != nothing else one)
