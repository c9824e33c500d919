"""What a session forgot: report.md, report.html and a picture in its folder, and the same numbers for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bp_eval.bootstrap import Interval, Ratio, difference, mean_difference
from bp_eval.measures import FEW
from bp_multirun import forgetting
from bp_multirun.config import MultiRunConfig
from bp_multirun.mergers import weights
from bp_multirun.record import Record, Score

from ..reports import document
from ..reports.document import Block, Heading, Picture, Table
from ..reports.heat_map import heat_map
from ..reports.run_report import number_text

REPORT, PICTURE = "report", "forgetting.svg"


def numbers(record: Record, config: MultiRunConfig) -> dict[str, Any]:
    """JSON values. Losses in nats a token; `backward_transfer` below 0 is forgetting."""
    found = backward_transfer(record)
    return {
        "merge": config.merge,
        "stages": [_stage(record, config, number) for number, _ in enumerate(record.entries, 1)],
        "losses": forgetting.matrix(record),
        "general": forgetting.general(record),
        "average_loss": forgetting.average(record),
        "backward_transfer": found.as_dict() if found else None,
        "price_of_merging": forgetting.merge_cost(record),
    }


def backward_transfer(record: Record) -> Interval | None:
    """The mean fall of earlier stages' loss since each was merged, with its interval; None before the second."""
    found = forgetting.retained(record)
    pairs = [(_ratio(stage.then), _ratio(stage.now)) for stage in found]
    return mean_difference(pairs) if pairs else None


def write(record: Record, config: MultiRunConfig, folder: Path) -> Path:
    """Write the report, anew after each session."""
    blocks: list[Block] = [
        Heading("What was learned, and what was forgotten", 1),
        *_summary(record),
        Heading("Losses"),
        "Loss a token on rows held out of each stage, by the adapter that was the result after each stage. "
        "Below the loss of the base something was learned; a number that grows to the right is forgotten.",
        matrix_table(record),
        Picture(PICTURE, "Loss of each stage's rows after each stage, less the base's", _picture(record)),
        Heading("Stages"),
        stages_table(record, config),
        *_pairs(record),
    ]
    document.write(blocks, folder, REPORT)
    return folder / f"{REPORT}.html"


def matrix_table(record: Record) -> Table:
    """A line for each stage's rows, a column for the base and one for the result after each stage."""
    names = [entry.name for entry in record.entries]
    head = ("held out of", "base", *(f"after {name}" for name in names))
    rows = []
    for name, base, after in _losses(record):
        cells = ["" if loss is None else number_text(loss) for loss in after]
        rows.append((name, number_text(base), *cells))
    return Table(head, rows)


def stages_table(record: Record, config: MultiRunConfig) -> Table:
    """How each stage was merged."""
    head = ("stage", "merged", "weight", "likeness to before", "its loss alone", "its loss merged", "change")
    lines = []
    for number, entry in enumerate(record.entries, 1):
        told, own = _stage(record, config, number), str(number)
        change = difference(_ratio(entry.merged[own]), _ratio(entry.unmerged[own]))
        merged = "yes" if entry.accepted else f"refused: +{entry.rise:.4f} on earlier stages"
        share, cosine = told["share"], entry.drift.get("cosine")
        parts = ["" if share is None else f"{share:.1%}", "" if cosine is None else f"{cosine:.3f}"]
        losses = [number_text(scores[own].loss) for scores in (entry.unmerged, entry.merged)]
        lines.append((entry.name, merged, *parts, *losses, interval_text(change)))
    return Table(head, lines)


def interval_text(found: Interval) -> str:
    """A change with its interval."""
    return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def summary_lines(record: Record) -> list[tuple[str, str]]:
    """The numbers that say most."""
    lines = [("average loss", number_text(forgetting.average(record)))]
    if found := backward_transfer(record):
        lines.append(("backward transfer", _sense(record, found)))
    cost = forgetting.merge_cost(record)
    if cost is not None:
        lines.append(("cost of merging", f"{cost:+.4f} on the newest stage"))
    return lines


def _sense(record: Record, found: Interval) -> str:
    """What the change of earlier stages' losses means; from a few rows it means nothing."""
    rows = min(len(stage.now.nats) for stage in forgetting.retained(record))
    if rows < FEW:
        count = "1 row is" if rows == 1 else f"{rows} rows are"
        return f"{found.estimate:+.4f} for earlier stages; {count} held out of one, too few to tell forgetting"
    sense = "forgotten" if found.estimate < 0 else "got better"
    if not found.excludes(0):
        sense = "not clear"
    return f"{interval_text(found)}: earlier stages, {sense}"


def _summary(record: Record) -> list[Block]:
    note = (
        "Backward transfer is the mean fall of an earlier stage's loss since it was merged, with a 95 % interval over "
        "the rows held out; below 0 it was forgotten. The cost of merging is by how much the newest stage's loss is "
        "higher in the result than in its own adapter."
    )
    return [Table(("", ""), summary_lines(record)), note]


def _pairs(record: Record) -> list[Block]:
    """Where rows are pairs: of how many the better answer is the likelier one."""
    now = record.standing()
    rows = []
    for number in record.accepted:
        entry, own = record.entries[number - 1], str(number)
        if now[own].right:
            rows.append((entry.name, _share(entry.base[own]), _share(now[own])))
    head = ("pairs held out of", "better answer likelier, base", "now")
    return [Heading("Pairs"), Table(head, rows)] if rows else []


def _stage(record: Record, config: MultiRunConfig, number: int) -> dict[str, Any]:
    entry = record.entries[number - 1]
    accepted = record.accepted
    shares = dict(zip(accepted, weights(config, len(accepted)), strict=True)) if accepted else {}
    own = str(number)
    return {
        "name": entry.name,
        "accepted": entry.accepted,
        "rise_of_earlier": entry.rise,
        "share": shares.get(number),
        "base_loss": entry.base[own].loss,
        "unmerged_loss": entry.unmerged[own].loss,
        "merged_loss": entry.merged[own].loss,
        **entry.drift,
    }


def _picture(record: Record) -> str:
    """Each cell is coloured by how far it is from the base."""
    rows = _losses(record)
    changes = []
    for _, base, after in rows:
        changes.append([None if loss is None or base is None else loss - base for loss in after])
    rows_shown = [name for name, _, _ in rows]
    columns = [entry.name for entry in record.entries]
    return heat_map(changes, rows_shown, columns)


def _losses(record: Record) -> list[tuple[str, float | None, Sequence[float | None]]]:
    """For each set of rows its name, the loss of the base, and that of the result after each stage."""
    rows: list[tuple[str, float | None, Sequence[float | None]]] = []
    for number, after in enumerate(forgetting.matrix(record), 1):
        entry = record.entries[number - 1]
        rows.append((entry.name, entry.base[str(number)].loss, after))
    base, *general = forgetting.general(record) or [None]
    return [*rows, ("general questions", base, general)]


def _ratio(score: Score) -> Ratio:
    return Ratio(score.nats, score.over)


def _share(score: Score) -> str:
    return f"{sum(score.right) / len(score.right):.0%}"
