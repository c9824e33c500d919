"""The smallest file that keeps what was learned: number formats tried from small to large, each by the proof."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bp_core.events import Notify

from ..gguf.reader import GgufFile
from ..parity import Trial
from .mixture import MIXTURES
from .quantize import Importance, quantize, quantized_size

# Searching their best codes takes ten to thirty times as long as that of the others; who wants them names them.
_SLOW = ("iq3_m", "iq4_xs")


class Judge(Protocol):
    """Whether a file keeps what was learned, by the rows of the proof."""

    def trial(self, path: Path, quantization: str) -> Trial: ...


@dataclass
class Choice:
    """Trials on the float file `plain`, whose results are collected in `trials`."""

    plain: Path
    judge: Judge
    importance: Importance | None
    notify: Notify | None
    trials: list[Trial] = field(default_factory=list)

    def smallest(self, quantizations: Iterable[str], target: Path) -> Trial | None:
        """The first of them that keeps what was learned, with its file at `target`; None if none does."""
        for quantization in quantizations:
            quantize(self.plain, target, quantization, importance=self.importance, notify=self.notify)
            trial = self.judge.trial(target, quantization)
            self.trials.append(trial)
            if trial.kept:
                return trial
        return None

    def by_size(self, *, above: str | None = None) -> list[str]:
        """The names of the formats from the smallest file to the largest; only larger ones than `above`'s."""
        sizes = self.sizes()
        least = sizes[above] if above else 0
        names = [name for name in sizes if name not in _SLOW and name != above and sizes[name] >= least]
        return sorted(names, key=lambda name: sizes[name])

    def sizes(self) -> dict[str, int]:
        """Bytes of the file in each format."""
        gguf = GgufFile(self.plain)
        _, header = gguf.header
        with_matrix = self.importance is not None
        return {name: header + quantized_size(gguf, name, importance=with_matrix) for name in MIXTURES}
