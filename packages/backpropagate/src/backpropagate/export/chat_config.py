"""Settings of a chat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bp_core.settings import Clash, Range, check, only_where


@dataclass(frozen=True)
class ChatConfig:
    """How a model answers in a chat."""

    max_tokens: Annotated[int, "Longest answer, in tokens.", Range(1)] = 512
    temperature: Annotated[
        float, "How much chance has a say: 0 takes the likeliest token every time, 1 draws as the model says.", Range(0)
    ] = 0.0
    top_p: Annotated[
        float,
        "With a temperature: draw from the likeliest tokens that together have this probability.",
        Range(1e-6, 1),
    ] = 1.0
    seed: Annotated[
        int | None, "With a temperature: the same seed draws the same answer. Default: chance.", Range(0, 2**32 - 1)
    ] = None
    tools: Annotated[
        str | None, "A JSON file with a list of tools that the model may call, as OpenAI writes them. Default: none."
    ] = None
    think: Annotated[
        bool,
        "Let the model think before it answers, and show the thoughts. Without, its template's switch is off, and "
        "what is thought all the same is folded.",
    ] = True
    raw: Annotated[bool, "Let a .gguf go on with each text as it is, without a chat template."] = False

    def __post_init__(self) -> None:
        check(self, _CLASHES)


_CLASHES: list[Clash] = [
    Clash(
        (name, "temperature"),
        lambda value, temperature, plain=plain: value != plain and temperature == 0,
        f"{name} is set, but temperature is 0, where every answer is the likeliest",
    )
    for name, plain in (("top_p", ChatConfig.top_p), ("seed", ChatConfig.seed))
]
_CLASHES += only_where("raw", (False,), "{} is set, but raw goes on with the text alone", "tools", "think", "top_p")
