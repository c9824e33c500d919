"""Settings of a data check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from bp_core.choices import ToolsTemplate
from bp_core.config import MAX_LENGTH, TrainConfig
from bp_core.errors import BadValue
from bp_core.settings import Range, check

_GIVE_MODEL = "Give --model too."
Severity = Literal["note", "warning", "error"]  # from the mildest


@dataclass(frozen=True)
class CheckConfig:
    """Settings of a data check."""

    model: Annotated[
        str | None, "Also check what this model's tokenizer and chat template make of the rows. Default: no tokens."
    ] = None
    max_length: Annotated[
        int | None, f"With --model: longest row in tokens. Default: {MAX_LENGTH}, as in training.", Range(8)
    ] = None
    tools_template: Annotated[
        ToolsTemplate, "With --model: as in training, tools for a chat template that has none."
    ] = TrainConfig.tools_template
    against: Annotated[str | None, "The held-out data: rows that are also there are found."] = None
    near: Annotated[bool, "Find near duplicates, too; takes about 2 KB of memory a row."] = True
    fix: Annotated[str | None, "A .jsonl file to write: the rows, repaired or left out, each change told."] = None
    fail_on: Annotated[Severity, "Exit with 1 when there is a finding of this severity, or a worse one."] = "error"

    def __post_init__(self) -> None:
        check(self)
        if self.max_length is not None and self.model is None:
            raise BadValue("max_length counts tokens, and without a model there are none.", fix=_GIVE_MODEL)
        if self.tools_template != "none" and self.model is None:
            raise BadValue("tools_template adds to a model's chat template, and no model is given.", fix=_GIVE_MODEL)
