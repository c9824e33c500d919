"""How data is read, where errors of single rows go, and where remarks go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bp_core.config import DataConfig
from bp_core.errors import BackpropagateError

Fault = Callable[[BackpropagateError], None]  # gets the error of a broken part; if it returns, reading continues


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to know of the data that is no error. `kind` is one of `bp_data.check.findings`."""

    kind: str
    where: str
    message: str
    fix: str | None = None


Tell = Callable[[Remark], None]


def strict(error: BackpropagateError) -> None:
    """The default Fault: raise the first error."""
    raise error


def unheard(remark: Remark) -> None:
    """The default Tell."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every reader is given."""

    config: DataConfig = field(default_factory=DataConfig)
    fault: Fault = strict
    tell: Tell = unheard
    evaluating: bool = False  # of data with train, validation and test parts, one to evaluate on is read

    @property
    def row_bytes(self) -> int:
        """The largest size of a row in bytes."""
        return int(self.config.max_row * 2**20)

    def expanded_bytes(self, compressed: int) -> int:
        """The largest size, in bytes, that a file of `compressed` bytes may expand to."""
        largest = int(self.config.max_expanded * 2**30)
        return min(largest, max(int(self.config.max_ratio * compressed), _ALWAYS))


_ALWAYS = 1 << 20  # bytes that any file may expand to: small files of equal rows compress well
