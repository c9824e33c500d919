"""A short document, written once and rendered as Markdown and as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from bp_core.folders import new_file

from .look import style

Kind = Literal["info", "ok", "warn", "bad"]
_SIGNS: dict[Kind, str] = {"info": "●", "ok": "✓", "warn": "▲", "bad": "✗"}  # a state is never told by colour alone


@dataclass(frozen=True)
class Heading:
    """`level` 1 is the title; each of level 2 begins a part of its own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Lead:
    """What a reader in a hurry reads: a few sentences."""

    text: str


@dataclass(frozen=True)
class Small:
    """A line that is less important than the rest."""

    text: str


@dataclass(frozen=True)
class Note:
    """Something to notice; a `tag` is a state in a word or two."""

    text: str
    kind: Kind = "info"
    tag: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with the few numbers that matter most."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table with a head; on a narrow page each row becomes a list of its cells, named by the head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Answers:
    """A question as it was asked, and the answers by who gave them. `raw`: the prompt as the model sees it."""

    question: str
    answers: Sequence[tuple[str, str]]
    raw: str = ""
    chosen: str = ""  # whose answer the document is about


@dataclass(frozen=True)
class Code:
    """Text that must stay as it is, with a line that says what it is."""

    label: str
    text: str
    language: str = ""


@dataclass(frozen=True)
class Picture:
    """An SVG: a file beside the Markdown, part of the HTML. `narrow` is the same for narrow pages."""

    file: str
    label: str
    svg: str
    narrow: str = ""


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown when the reader asks for them."""

    label: str
    blocks: Sequence[Block]


Block = str | Heading | Lead | Small | Note | Facts | Table | Answers | Code | Picture | Folded


def markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def html(blocks: Sequence[Block]) -> str:
    """One page that needs no other file and no script."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{style()}</style>"
    body = "\n".join(_parts(blocks))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>\n{body}\n</main></body></html>\n'


def write(blocks: Sequence[Block], folder: Path, name: str) -> None:
    """Write `name`.md, `name`.html and the pictures to `folder`, each whole or not at all."""
    files = {f"{name}.md": markdown(blocks), f"{name}.html": html(blocks)}
    files |= {picture.file: picture.svg for picture in _pictures(blocks)}
    for file, text in files.items():
        with new_file(folder / file) as draft:
            draft.write_text(text, encoding="utf-8")


def _pictures(blocks: Sequence[Block]) -> Iterator[Picture]:
    for block in blocks:
        if isinstance(block, Picture):
            yield block
        if isinstance(block, Folded):
            yield from _pictures(block.blocks)


def _parts(blocks: Sequence[Block]) -> Iterator[str]:
    """The blocks as HTML; each heading of level 2 opens a card that ends before the next one."""
    is_open = False
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            yield ("</section>" if is_open else "") + '<section class="card">'
            is_open = True
        yield _html(block)
    if is_open:
        yield "</section>"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Lead(text) | Small(text):
            return _plain(text)
        case Note(text, kind):
            return f"**{_SIGNS[kind]} {_plain(text)}**"
        case Facts(rows):
            return _markdown(Table(("", ""), rows))
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)
        case Answers(question, answers, raw):
            quoted = "\n".join(f"> {_plain(line)}" for line in question.splitlines() or [""])
            table = Table([who for who, _ in answers], [[text for _, text in answers]])
            folded = [_markdown(Folded("As the model sees it", [Code("The prompt", raw)]))] if raw else []
            return "\n\n".join([quoted, _markdown(table), *folded])
        case Code(label, text, language):
            runs = re.findall("`+", text)
            fence = "`" * max(3, 1 + max(map(len, runs), default=0))
            return f"{_plain(label)}\n\n{fence}{language}\n{text}\n{fence}"
        case Picture(file, label, _):
            return f"![{_plain(label)}]({file})"
        case Folded(label, inside):
            return f"<details><summary>{escape(label)}</summary>\n\n{markdown(inside)}\n</details>"
    return _plain(block)


def _html(block: Block) -> str:
    match block:
        case Facts(rows):
            pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
            return f'<dl class="facts">{pairs}</dl>'
        case Table():
            return _table(block)
        case Answers():
            return _answers(block)
        case Code(label, text):
            return f'<p class="small">{escape(label)}</p><pre>{escape(text)}</pre>'
        case Picture(_, label, svg, narrow):
            wide = f'<div class="wide">{svg}</div><div class="narrow">{narrow}</div>' if narrow else svg
            return f"<figure>{wide}<figcaption>{escape(label)}</figcaption></figure>"
        case Folded(label, inside):
            body = "\n".join(_html(one) for one in inside)
            return f"<details><summary>{escape(label)}</summary>{body}</details>"
        case _:
            return _html_text(block)


def _html_text(block: str | Heading | Lead | Small | Note) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Lead(text):
            return f'<p class="lead">{escape(text)}</p>'
        case Small(text):
            return f'<p class="small">{escape(text)}</p>'
        case Note(text, kind, tag):
            element, name = ("span", "tag") if tag else ("p", "note")
            return f'<{element} class="{name} {kind}">{_SIGNS[kind]} {escape(text)}</{element}>'
    return f"<p>{escape(block)}</p>"


def _table(table: Table) -> str:
    if not any(table.head):
        return "<table>" + "".join(f"<tr>{_cells(row)}</tr>" for row in table.rows) + "</table>"
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "".join(f"<tr>{_cells(row, table.head)}</tr>" for row in table.rows)
    return f'<table class="named"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _cells(row: Sequence[str], head: Sequence[str] = ()) -> str:
    labels = head or [""] * len(row)
    names = [f' data-label="{escape(label)}"' if label else "" for label in labels]
    return "".join(f"<td{name}>{escape(cell)}</td>" for name, cell in zip(names, row, strict=True))


def _answers(block: Answers) -> str:
    boxes = ""
    for who, text in block.answers:
        marked = ' class="chosen"' if who == block.chosen else ""
        boxes += f'<div{marked}><span class="small">{escape(who)}</span><p>{escape(text)}</p></div>'
    raw = _html(Folded("As the model sees it", [Code("The prompt", block.raw)])) if block.raw else ""
    return f'<p class="asked">{escape(block.question)}</p><div class="answers">{boxes}</div>{raw}'


def _plain(text: str) -> str:
    """Text that Markdown must not read as markup, on one line."""
    kept = " ".join(text.split())
    return "".join(f"\\{sign}" if sign in r"\`*_[]<>|#" else sign for sign in kept)
