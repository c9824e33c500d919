"""One finding of the doctor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

# ok: as it should be. note: works without, or is worth knowing. problem: training or export is worse for it.
Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and the command that helps, "" where nothing needs help."""

    what: str
    verdict: Verdict
    message: str
    command: str = ""


@dataclass(frozen=True)
class Examination:
    """All findings, and the verdict in one sentence."""

    findings: tuple[Finding, ...]
    device: str

    @property
    def problems(self) -> Sequence[Finding]:
        return [finding for finding in self.findings if finding.verdict == "problem"]

    @property
    def verdict(self) -> str:
        if not self.problems:
            return f"This machine is ready: it trains on {self.device}."
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return f"{count} found; training would be on {self.device}."

    def as_dict(self) -> dict[str, Any]:
        findings = [asdict(finding) for finding in self.findings]
        return {"ok": not self.problems, "verdict": self.verdict, "device": self.device, "findings": findings}
