"""Decides whether what was measured is good enough for a release: exit 0, or 1 with a line for each thing that is not.

`gate.py FOLDER` reads the results that the other scripts wrote there, and compares them with the limits below. One
that is missing fails, too, but for those of a graphics card, told as not measured. With `--before FOLDER`, the
results of the last release, what got worse by more than a twentieth fails as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TOLERATED = 0.05  # of a number of the last release: measurements differ by that from day to day
EXPORT_FORMATS = ("f16", "q8_0", "q4_k_m")


@dataclass(frozen=True)
class Requirement:
    """One number of one result, and the least or the most that it may be."""

    file: str
    what: str
    measure: Callable[[Any], float]
    least: float = float("-inf")
    most: float = float("inf")
    needs_card: bool = False

    def fell(self, folder: Path, before: Path) -> str | None:
        """What got worse since `before`, in words; None where nothing did, or one of the two was not measured."""
        try:
            old, new = (self.measure(json.loads((one / self.file).read_text("utf-8"))) for one in (before, folder))
        except (OSError, ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
            return None
        worse = old - new if self.least > float("-inf") else new - old
        if worse <= _TOLERATED * abs(old):
            return None
        return f"{self.file}: {self.what} was {old:g} in the last release, and is {new:g}"

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


def _failed_on_card(result: Any) -> float:
    """Tests that need a card and failed, and parts of the suite that did not end."""
    return float(sum("failed" in part for part in result.values()))


def _worst_on_card(result: Any) -> float:
    """The memory estimate that is furthest from the allocator's peak."""
    return max(abs(row["error"]) for row in result["memory"] if row.get("error") is not None)


def _untrained_on_small_card(result: Any) -> float:
    """What is promised for 16 GB and was not trained: a 7B at 2048 tokens, and all weights of a 3B."""
    rows = [result["small_card"]["7b"][0], result["small_card"]["3b full"]]
    return sum(not row["trained"] for row in rows)


def _speed_on_card(result: Any) -> float:
    """Trained tokens a second, over a plain loop's, where we are slowest."""
    both = [(row["ours"], row["transformers + peft"]) for row in result["speed"]]
    return min(ours / plain for ours, plain in both if ours and plain)


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
    Requirement("gpu.json", "failures on a card", _failed_on_card, most=0, needs_card=True),
    Requirement("gpu.json", "the worst memory estimate on a card", _worst_on_card, most=0.15, needs_card=True),
    Requirement("gpu.json", "promises for 16 GB not kept", _untrained_on_small_card, most=0, needs_card=True),
    Requirement("gpu.json", "the speed on a card, over a plain loop's", _speed_on_card, least=1, needs_card=True),
)


def measured(folder: Path) -> list[Requirement]:
    """The requirements to judge: those of a card only where one was measured."""
    return [one for one in REQUIREMENTS if not one.needs_card or (folder / one.file).is_file()]


def problems(folder: Path, before: Path | None = None) -> Iterator[str]:
    """Every requirement that is not met, and what got worse since `before`, in words."""
    for requirement in measured(folder):
        if problem := requirement.problem(folder):
            yield problem
        elif before and (fell := requirement.fell(folder, before)):
            yield fell


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the results are, such as benchmarks/results")
    parser.add_argument("--before", type=Path, help="the results of the last release, to compare with")
    chosen = parser.parse_args()
    judged = measured(chosen.folder)
    found = list(problems(chosen.folder, chosen.before))
    for problem in found:
        print(f"gate: {problem}", file=sys.stderr)
    if len(judged) < len(REQUIREMENTS):
        print(f"gate: not measured on a card: {len(REQUIREMENTS) - len(judged)} requirements")
    print(f"gate: {len(judged) - len(found)} of {len(judged)} requirements are met")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
