"""Dates in rendered prompts: some chat templates write today's, and each program has its own idea of today."""

from __future__ import annotations

import re

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|"
    r"Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
)
_WEEKDAY = r"(?:(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?,? )?"
_CLOCK = r"(?:[ T]\d{1,2}:\d{2}(?::\d{2})?(?: ?[AP]M)?)?"
_DATE = re.compile(
    rf"{_WEEKDAY}(?:"
    rf"\d{{1,2}}(?:st|nd|rd|th)? {_MONTH},? \d{{4}}"
    rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"
    rf"|{_MONTH} \d{{4}}"
    r"|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}"
    r"|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}"
    rf"){_CLOCK}|\b\d{{1,2}}:\d{{2}}(?::\d{{2}})?\b"
)
_MARK = "\ue000"  # in no prompt


def other_dates(first: str, second: str) -> tuple[str, str] | None:
    """The dates in which two texts differ, comma-separated, if they differ in nothing else; else None."""
    if _DATE.sub(_MARK, first) != _DATE.sub(_MARK, second):
        return None
    pairs = zip(_DATE.findall(first), _DATE.findall(second), strict=True)
    apart = list(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))
    mine, theirs = (", ".join(dict.fromkeys(pair[side] for pair in apart)) for side in (0, 1))
    return (mine, theirs) if apart else None
