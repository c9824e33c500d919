"""The result of a check: counts, findings with their locations, lengths, and what a repair did."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import Severity
from .findings import KINDS, Findings, at_least
from .lengths import Lengths
from .tokens import Tokens


@dataclass(frozen=True, slots=True)
class RepairReport:
    """A repaired copy. `left_out` counts rows by their kind of fault, `removed` the characters removed from `cleaned`
    rows. `changes` is a file with one line for each changed row.
    """

    path: Path
    changes: Path
    rows: int
    cleaned: int
    left_out: dict[str, int]
    removed: dict[str, int]


@dataclass(frozen=True)
class Report:
    """The result of a check. `unread` counts rows that could not be read; they are not in `rows`."""

    rows: int
    unread: int
    formats: dict[str, int]
    findings: Findings
    characters: Lengths
    tokens: Tokens | None
    repaired: RepairReport | None

    def fails(self, limit: Severity) -> bool:
        """Whether there is a finding of this severity, or a worse one."""
        worst = self.findings.worst()
        return worst is not None and at_least(worst, limit)

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON value; `shown` < `count` if further findings were only counted."""
        counts = {name: self.findings.counts[name] for name in KINDS if self.findings.counts[name]}
        return {
            "rows": self.rows,
            "unread": self.unread,
            "formats": self.formats,
            "kinds": {
                name: {"severity": KINDS[name].severity, "count": count, "shown": len(self.findings.of(name))}
                for name, count in counts.items()
            },
            "findings": [finding.as_dict() for finding in self.findings],
            "characters": self.characters.as_dict(),
            "tokens": self._tokens(),
            "repaired": dataclasses.asdict(self.repaired) if self.repaired else None,
        }

    def _tokens(self) -> dict[str, Any] | None:
        if self.tokens is None:
            return None
        counted = {"max_length": self.tokens.max_length, "over": self.tokens.over, "trained": self.tokens.trained}
        return counted | self.tokens.lengths.as_dict()
