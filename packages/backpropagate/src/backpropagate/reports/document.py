"""A short document, written once and rendered as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bp_core.folders import new_file

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:46em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse}td,th{border:1px solid #ddd;padding:.25em .6em;text-align:left;vertical-align:top}"
    "td{white-space:pre-wrap}"
    "pre{background:#f5f5f5;padding:.6em;white-space:pre-wrap;overflow-wrap:anywhere}svg{max-width:100%}"
)


@dataclass(frozen=True)
class Heading:
    """`level` 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Table:
    """A table with a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Code:
    """Text that must stay as it is, with a line that says what it is."""

    label: str
    text: str
    language: str = ""


@dataclass(frozen=True)
class Picture:
    """An SVG: a file beside the Markdown, part of the HTML."""

    file: str
    label: str
    svg: str


Block = str | Heading | Table | Code | Picture


def markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def html(blocks: Sequence[Block]) -> str:
    """One page that needs no other file."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    body = "\n".join(_html(block) for block in blocks)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def write(blocks: Sequence[Block], folder: Path, name: str) -> None:
    """Write `name`.md, `name`.html and the pictures to `folder`, each whole or not at all."""
    files = {f"{name}.md": markdown(blocks), f"{name}.html": html(blocks)}
    files |= {block.file: block.svg for block in blocks if isinstance(block, Picture)}
    for file, text in files.items():
        with new_file(folder / file) as draft:
            draft.write_text(text, encoding="utf-8")


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)
        case Code(label, text, language):
            fence = "`" * max(3, 1 + _longest_run(text))
            return f"{_plain(label)}\n\n{fence}{language}\n{text}\n{fence}"
        case Picture(file, label, _):
            return f"![{_plain(label)}]({file})"
    return _plain(block)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Table(head, rows):
            cells = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
            for row in rows:
                cells.append("".join(f"<td>{escape(cell)}</td>" for cell in row))
            return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
        case Code(label, text):
            return f"<p>{escape(label)}</p><pre>{escape(text)}</pre>"
        case Picture(_, label, svg):
            return f"<figure>{svg}<figcaption>{escape(label)}</figcaption></figure>"
    return f"<p>{escape(block)}</p>"


def _plain(text: str) -> str:
    """Text that Markdown must not read as markup, on one line."""
    kept = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in r"\`*_[]<>|#" else sign for sign in kept)


def _longest_run(text: str) -> int:
    longest = run = 0
    for sign in text:
        run = run + 1 if sign == "`" else 0
        longest = max(longest, run)
    return longest
