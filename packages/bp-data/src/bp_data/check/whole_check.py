"""The check: one pass over the rows, then what only shows when all have been seen, then the repair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from bp_core.errors import BadValue
from bp_core.events import Notify

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
    columns: Mapping[str, str] | None = None,
    on_progress: Notify | None = None,
) -> Report:
    """Find the faults of a data file, or of what else `read` takes; `tokenizer` is that of `settings.model`.

    `columns` is as in `read`, for both sides; a repaired copy keeps the names of the file. A fault of a row is a
    finding. Raises BadValue, OutputUnusable, the errors of reading for a file that cannot be opened or is empty, any
    error of `settings.against`, and NoTarget if a repair would leave no row.
    """
    settings = settings or CheckConfig()
    if settings.fix:
        _refuse_reading_once(data)
        refuse_target(settings.fix)
    work = Inspection(settings, columns or {}, tokenizer)
    rows = read(data, fault=work.unread)
    progress = CheckProgress(data, on_progress)
    while chunk := list(islice(rows, _CHUNK)):
        work.add(chunk)
        progress("check", len(work.places))
    work.finish()
    if not settings.fix:
        return work.report()
    plan = Plan(settings.fix, work.verdicts, lambda done: progress("repair", done))
    return work.report(repair(data, plan))


def _refuse_reading_once(data: Data) -> None:
    if str(data) == STDIN or isinstance(data, Iterator):
        message = "a repair reads the rows twice, and these can be read once."
        raise BadValue(message, fix="Save them to a file first.")
