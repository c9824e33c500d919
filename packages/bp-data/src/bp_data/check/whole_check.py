"""The check: one pass over the rows, then the faults that need all rows, then the repair."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from bp_core.config import DataConfig
from bp_core.errors import BadValue
from bp_core.events import Notify

from ..reading.columns import as_it_is
from ..reading.files import Data, read
from ..reading.text import STDIN
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .config import CheckConfig
from .inspection import Inspection
from .progress import CheckProgress
from .repair import Plan, refuse_target, repair
from .report import Report

_CHUNK = 512  # rows for the tokenizer's and the hasher's threads at once


def check(
    data: Data,
    settings: CheckConfig | None = None,
    tokenizer: ChatTokenizer | None = None,
    reading: DataConfig | None = None,
    on_progress: Notify | None = None,
) -> Report:
    """Find the faults of a data file, or of other data that `read` takes; `tokenizer` is that of `settings.model`.

    `reading` is the `config` of `read`, for both files; a repaired copy keeps the file's names. Faults of rows are
    findings, not errors. Raises BadValue, OutputUnusable, the errors of reading for a file that cannot be opened or is
    empty, any error of `settings.against`, and NoTarget if a repair would leave no row.
    """
    settings = settings or CheckConfig()
    if settings.fix:
        _refuse_reading_once(data)
        refuse_target(settings.fix)
    reading = reading or DataConfig()
    inspection = Inspection(settings, reading, tokenizer)
    rows = read(data, as_it_is(reading), inspection.unread, inspection.tell)
    progress = CheckProgress(data, on_progress)
    while chunk := list(islice(rows, _CHUNK)):
        inspection.add(chunk)
        progress("check", len(inspection.places))
    inspection.finish()
    if not settings.fix:
        return inspection.report()
    plan = Plan(settings.fix, inspection.verdicts, lambda done: progress("repair", done), as_it_is(reading))
    return inspection.report(repair(data, plan))


def _refuse_reading_once(data: Data) -> None:
    if str(data) == STDIN or isinstance(data, Iterator):
        message = "a repair reads the rows twice, and these can be read once."
        raise BadValue(message, fix="Save them to a file first.")
