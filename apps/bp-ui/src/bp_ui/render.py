"""Pages out of templates. All that is put into one is escaped, and what would steer a browser or a reader is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from bp_core.units import counted, gigabytes, in_words, moment, short

_SIGNS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: "␡"}
# Characters that turn the direction of text, or have no width: they can make a name look like another one.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
SCREENS = (
    ("Runs", "/runs"),
    ("Data", "/data"),
    ("Train", "/train"),
    ("Chat", "/chat"),
    ("Models", "/models"),
    ("System", "/system"),
)
THEMES = ("light", "dark")
_MARKS = {
    "running": ("●", "info", "Training"),
    "paused": ("Ⅱ", "warn", "Paused"),
    "pausing": ("Ⅱ", "warn", "Pausing"),
    "stopping": ("■", "warn", "Stopping"),
    "finished": ("✓", "ok", "Finished"),
    "failed": ("✗", "bad", "Failed"),
    "interrupted": ("■", "warn", "Interrupted"),
    "waiting": ("…", "info", "Waiting"),
    "merging": ("●", "info", "Merging and measuring"),
    "merged": ("✓", "ok", "Merged"),
    "refused": ("✗", "warn", "Refused by the gate"),
}


def visible(text: str) -> str:
    """Text of unknown origin with its control characters shown."""
    return _INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text.translate(_SIGNS))


def _finalized(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": gigabytes, "duration": in_words, "moment": moment, "short": short, "number": number,
    }  # fmt: skip
    environment.globals |= {"counted": counted, "screens": SCREENS, "marks": _MARKS}
    return environment


def number(value: float | None) -> str:
    """A measured number in a few characters."""
    return "–" if value is None else f"{value:.4g}"


_ENVIRONMENT = _environment()


def fragment(template: str, /, **values: Any) -> str:
    """A part of a page."""
    return _ENVIRONMENT.get_template(template).render(**values)


def page(request: Request, template: str, code: int = 200, /, **values: Any) -> HTMLResponse:
    """A whole page."""
    chosen = request.cookies.get("bp-theme", "")
    theme = chosen if chosen in THEMES else ""
    text = fragment(template, theme=theme, path=request.url.path, **values)
    return HTMLResponse(text, code)
