"""Rendering a row as text, and finding its trained answers in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bp_core.choices import TrainOn
from bp_core.config import TrainConfig
from bp_core.contract import Bos
from bp_core.errors import BadRow, TemplateUnusable

from ..formats.call_ids import with_call_ids
from ..formats.records import Record, Turn
from ..tokenizer.chat_tokenizer import ChatTokenizer
from .turn_borders import NO_TOOLS, Place, Skeleton, skeleton_of, with_holes


@dataclass(frozen=True, slots=True)
class Span:
    """An assistant turn in the text, in characters: `start` after the generation prompt, `end` after the terminator,
    which cannot be before `answer`, the end of the content (so one written inside the content does not count)."""

    start: int
    answer: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A rendered row. `whole`: everything is trained, as in raw text, which has no spans.

    `left_out` counts parts of answers that the template did not write, such as the reasoning of earlier turns;
    `ids_made_up` the tool calls that got an id because the template wants one.
    """

    text: str
    spans: tuple[Span, ...]
    bos: Bos
    where: str
    whole: bool = False
    left_out: int = 0
    ids_made_up: int = 0


def lay_out(record: Record, tokenizer: ChatTokenizer, train_on: TrainOn = TrainConfig.train_on) -> Layout:
    """Render a row, and find the spans of its trained turns. Raises TemplateUnusable, BadRow."""
    if isinstance(record.content, str):
        return _raw(record.content, tokenizer, record.where)
    try:
        return _with_ids(record, record.content, tokenizer, train_on)
    except TemplateUnusable as error:
        if record.content[0]["role"] == "assistant":
            message = f"the conversation starts with an assistant turn, which this chat template cannot do: {error}"
            raise BadRow(message, where=record.where, fix="Put a user turn before it, or remove it.") from error
        raise TemplateUnusable(error.message, where=record.where, fix=error.fix) from error


def _with_ids(record: Record, turns: list[Turn], tokenizer: ChatTokenizer, train_on: TrainOn) -> Layout:
    """The conversation as it is; or with ids of tool calls in Mistral's form, where only those can be rendered."""
    try:
        return _conversation(record, turns, tokenizer, train_on)
    except TemplateUnusable:
        identified, made_up = with_call_ids(turns)
        if not made_up:
            raise
        return replace(_conversation(record, identified, tokenizer, train_on), ids_made_up=made_up)


def _raw(text: str, tokenizer: ChatTokenizer, where: str) -> Layout:
    if tokenizer.eos_token is None:
        message = "the tokenizer names no eos_token, so a model trained on raw text would never stop."
        raise TemplateUnusable(message, where=where, fix="Add an eos_token to tokenizer_config.json.")
    # Text that was already rendered may contain its BOS and EOS; they are not added again.
    written = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    text += "" if text.endswith(tokenizer.eos_token) else tokenizer.eos_token
    return Layout(text, (), "tokenizer" if tokenizer.prefix and not written else "none", where, whole=True)


def _conversation(record: Record, turns: list[Turn], tokenizer: ChatTokenizer, train_on: TrainOn) -> Layout:
    text = tokenizer.render(turns, tools=record.tools)
    missing = [tool["function"]["name"] for tool in record.tools if tool["function"]["name"] not in text]
    if missing:
        message = f"the chat template does not write the row's tools ({', '.join(missing)})."
        raise TemplateUnusable(message, fix=NO_TOOLS)
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and i not in record.untrained]
    answers = answers[-1:] if train_on == "last" else answers
    spans, left_out = _spans(record, turns, text, tokenizer, answers)
    return Layout(text, spans, tokenizer.bos(text), record.where, train_on == "all", left_out)


def _spans(
    record: Record, turns: list[Turn], text: str, tokenizer: ChatTokenizer, answers: Sequence[int]
) -> tuple[tuple[Span, ...], int]:
    """The spans of the answers, and the number of their parts that the template left out."""
    punched, texts = with_holes(turns)
    skeleton = skeleton_of(punched, record.tools, tokenizer)
    starts = skeleton.fill(texts, text)
    left_out = sum(turn in answers for turn, _ in skeleton.missing)
    if starts is not None:
        return tuple(_span(skeleton, starts, index) for index in answers), left_out
    # The template's output depends on the texts, so holes are made in one turn at a time.
    return tuple(_alone(record, turns, text, tokenizer, index) for index in answers), left_out


def _alone(record: Record, turns: list[Turn], text: str, tokenizer: ChatTokenizer, index: int) -> Span:
    punched, texts = with_holes(turns, only=index)
    skeleton = Skeleton(punched, record.tools, tokenizer)
    starts = skeleton.fill(texts, text)
    if starts is None:
        raise TemplateUnusable(f"the chat template rewrites the text of assistant turn {index + 1}.")
    return _span(skeleton, starts, index)


def _span(skeleton: Skeleton, starts: Sequence[int], index: int) -> Span:
    border = skeleton.border(index)

    def at(place: Place) -> int:
        return starts[place.piece] + place.offset

    return Span(at(border.start), at(border.answer), at(border.end))
