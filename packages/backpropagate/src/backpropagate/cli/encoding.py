"""Output on terminals and in files whose encoding lacks some of our signs, such as cp1252 or cp932."""

from __future__ import annotations

import codecs
import io
import sys

_HANDLER = "backpropagate"
_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = {
    "→": "->", "…": "...", "·": "-", "—": "-", "–": "-", "✓": "ok", "✗": "x", "▲": "!", "●": "*", "×": "x", "±": "+-",
    "÷": "/", "≥": ">=", "≤": "<=", "°": " deg ", "√": "sqrt ", "“": '"', "”": '"', "‘": "'", "’": "'",
    "\u00a0": " ", "\u202f": " ",
    **{block: str(height) for height, block in enumerate(_BLOCKS, 1)},
}  # fmt: skip


def make_printable() -> None:
    """Let stdout and stderr write something for every sign, in place of an error after the work is done."""
    codecs.register_error(_HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors=_HANDLER)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in text), error.end
