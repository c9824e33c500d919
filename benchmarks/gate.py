"""Decides whether what was measured is good enough for a release: exit 0, or 1 with a line for each thing that is not.

`gate.py FOLDER` reads the results that the other scripts wrote there. A result that is missing fails, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXPORT_FORMATS = ("f16", "q8_0", "q4_k_m")


@dataclass(frozen=True)
class Requirement:
    """One number of one result, and the least or the most that it may be."""

    file: str
    what: str
    measure: Callable[[Any], float]
    least: float = float("-inf")
    most: float = float("inf")

    def problem(self, folder: Path) -> str | None:
        """What is wrong, in words; None if the requirement is met."""
        try:
            measured = self.measure(json.loads((folder / self.file).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return f"{self.file} is missing: {self.what} was not measured"
        except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
            return f"{self.file} does not tell {self.what}: {type(error).__name__} {error}"
        if self.least <= measured <= self.most:
            return None
        allowed = f"at least {self.least:g}" if measured < self.least else f"at most {self.most:g}"
        return f"{self.file}: {self.what} is {measured:g}, and must be {allowed}"


def _beyond_tolerance(result: Any) -> float:
    """Numbers that differ from a peer's by more than is allowed."""
    return sum(row["difference"] > row["tolerance"] for row in result["rows"])


def _rate_against_trl(result: Any) -> float:
    """Rows prepared a second, against TRL's faster way."""
    rates = dict(result["rate"])
    ours = rates.pop("backpropagate")
    return float(ours / max(rates.values()))


def _slowest_export(result: Any) -> float:
    """Processor seconds of an export against PEFT and llama.cpp, in the format where we are worst."""
    ratios = []
    for name in EXPORT_FORMATS:
        seconds = result["cpu_seconds"][name]
        ratios.append(seconds["backpropagate"] / seconds["peft + llama.cpp"])
    return max(ratios)


def _unequal_tensors(result: Any) -> float:
    """Tensors that differ from those of llama.cpp's own converter."""
    return sum(family["tensors"] - family["equal"] for family in result.values())


def _missed_damage(result: Any) -> float:
    """Damaged files that the proof took for good, of adapters that had learned something."""
    return sum(row["damage"] != "none" and not row["refused"] for row in result["rows"])


def _false_alarms(result: Any) -> float:
    """Right files that the proof refused."""
    return sum(not row["proven"] for row in result["rows"])


REQUIREMENTS = (
    Requirement("parity.json", "numbers unlike a peer's", _beyond_tolerance, most=0),
    Requirement("data.json", "the rate of preparing data, over TRL's", _rate_against_trl, least=2),
    Requirement("export.json", "the processor time of an export, over PEFT's and llama.cpp's", _slowest_export, most=1),
    Requirement("families.json", "tensors unlike llama.cpp's converter", _unequal_tensors, most=0),
    Requirement("proof_damages.json", "damaged files that were proven", _missed_damage, most=0),
    Requirement("proof_alarms.json", "right files that were refused", _false_alarms, most=0),
    Requirement("memory_grid.json", "steps said to fit that do not", lambda found: found["summary"]["false"], most=0),
    Requirement("memory_grid.json", "the worst memory estimate", lambda found: found["summary"]["worst"], most=0.1),
    Requirement("merge.json", "merging, over copying", lambda found: found["speeds"]["fold"]["share"], least=0.5),
)


def problems(folder: Path) -> Iterator[str]:
    """Every requirement that is not met, in words."""
    for requirement in REQUIREMENTS:
        if problem := requirement.problem(folder):
            yield problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the results are, such as benchmarks/results")
    folder = parser.parse_args().folder
    found = list(problems(folder))
    for problem in found:
        print(f"gate: {problem}", file=sys.stderr)
    print(f"gate: {len(REQUIREMENTS) - len(found)} of {len(REQUIREMENTS)} requirements are met")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
