"""Columns of a row that are in no turn, although they may belong to the prompt or to the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from .conversations import HISTORY, INPUT, SYSTEM, pair_keys
from .fields import Value, given
from .preferences import COMPARED
from .ratings import LABELS
from .tool_calls import TOOL_KEYS
from .turns import TEXT_KEYS, TURN_KEYS, are_turns

REASONING = "reasoning_content"
# Columns beside an answer that hold how it was found.
THOUGHTS = ("rationale", "reasoning", "thinking", "thoughts", "thought", "cot", "chain_of_thought", "reasoning_trace")
_EVERY = {*TOOL_KEYS, REASONING, *LABELS}
_QUESTION = {*SYSTEM, *INPUT, HISTORY}
# What each format reads, beside what every format does.
_READ: dict[str, set[str]] = {
    "openai": {"messages", *SYSTEM},
    "sharegpt": {"conversations", *SYSTEM},
    "alpaca": {"instruction", "output", *_QUESTION},
    "prompt": {*_QUESTION},
    "text": {"text"},
    "xlam": {"query", "answers", *_QUESTION},
    "preference": {*COMPARED, *_QUESTION},  # prompts of any name are compared with what is learned
    "beside": {"messages", "rejected_response", "rejected_messages", *SYSTEM},
}
# Names of columns that say something about a row and are no part of it.
_ABOUT = {
    "id", "idx", "index", "uid", "uuid", "guid", "key", "row_id", "no", "number", "source", "src", "origin",
    "dataset", "data_source", "dataset_name", "subset", "split", "config", "category", "categories", "topic",
    "topics", "tag", "tags", "domain", "subject", "task", "task_type", "task_name", "tasks", "type", "kind",
    "difficulty", "level", "language", "lang", "locale", "license", "licence", "url", "urls", "uri", "link",
    "links", "file", "file_name", "filename", "path", "author", "authors", "user", "username", "annotator",
    "annotators", "worker", "model", "model_name", "models", "generator", "engine", "timestamp", "time", "date",
    "datetime", "created", "created_at", "updated_at", "version", "hash", "md5", "sha", "sha256", "length",
    "num_tokens", "n_tokens", "tokens", "token_count", "score", "scores", "quality", "redacted", "toxic",
    "moderation", "openai_moderation", "metadata", "meta", "extra_info", "turn", "num_turns", "score_chosen",
    "score_rejected", "margin", "conversation_id", "message_id", "parent_id", "prompt_id", "question_id",
    "doc_id", "__index_level_0__", "unnamed", "images", "image", "videos", "video", "audios", "audio",
}  # fmt: skip
_ABOUT_ENDS = ("_id", "_ids", "_url", "_uri", "_hash", "_date", "_at", "_time", "_score", "_model", "_tokens", "_index")
_LABELS = {"label", "labels", "category", "class", "topic", "topics", "tag", "tags", "target", "type", "winner"}
# Named even where they are numbers.
_SAY_MORE = {
    *_LABELS,
    "preference",
    "preferred",
    "better",
    "best",
    "rank",
    "loss_mask",
    "mask",
    "weight",
    "loss_weight",
}
_IN_TURN = "[]."  # between the column and the key, for a key of turns


def unused_columns(value: Value, format: str, texts: Iterable[str], rated: bool) -> tuple[str, ...]:
    """The columns of a row of `format` that are not read, are not about the row, and do not repeat its `texts`.

    Keys of turns that are not read are named as `messages[].key`.
    """
    names = _candidates(format, tuple(value), rated)
    found = [name for name in names if _says_something(name, value[name])]
    if found:
        learned = list(texts)
        found = [name for name in found if not _is_copy(value[name], learned)]
    return (*found, *_in_turns(value))


@lru_cache(maxsize=1024)
def _candidates(format: str, names: tuple[str, ...], rated: bool) -> tuple[str, ...]:
    """The columns that may be unused, by their names alone."""
    read = _READ[format] | _EVERY
    if format == "prompt":
        read = read | {*pair_keys(dict.fromkeys(names))}
    if not rated:
        read = read - {*LABELS}
    for group in (SYSTEM, INPUT):  # of which one is read
        present = [name for name in group if name in names]
        read = read - {*present[1:]}
    return tuple(name for name in names if name not in read and not _is_about(name, format))


def _is_about(name: str, format: str) -> bool:
    lower = name.lower()
    if lower in _SAY_MORE and (format == "text" or lower not in _ABOUT):
        return False
    return lower in _ABOUT or lower.endswith(_ABOUT_ENDS) or lower.startswith(("__", "unnamed: "))


def _says_something(name: str, item: object) -> bool:
    if isinstance(item, bool | int | float):
        return name.lower() in _SAY_MORE
    return given(item) and isinstance(item, str | list | tuple | Mapping)


def _is_copy(item: object, learned: list[str]) -> bool:
    """Whether every text of a column is in what is learned, or all that is learned is in the column."""
    if isinstance(item, bool | int | float):
        return False
    texts = [text.strip() for text in _texts(item)]
    texts = [text for text in texts if text]
    if not texts:
        return True
    if all(any(text in other for other in learned) for text in texts):
        return True
    return len(texts) == 1 and all(other.strip() in texts[0] for other in learned)


def _texts(item: object) -> Iterator[str]:
    """The texts in a column; of turns their contents only."""
    if isinstance(item, str):
        yield item
    elif isinstance(item, Mapping):
        for part in item.values():
            yield from _texts(part)
    elif isinstance(item, list | tuple):
        turns = are_turns(item)
        for part in item:
            if turns and isinstance(part, Mapping):
                part = [part[key] for key in TEXT_KEYS if key in part]
            yield from _texts(part)


def _in_turns(value: Value) -> Iterator[str]:
    """The keys of turns that are not read and hold text."""
    for column in ("messages", "conversations"):
        turns = value.get(column)
        if not isinstance(turns, list | tuple):
            continue
        more = {key for turn in turns if isinstance(turn, Mapping) and not turn.keys() <= TURN_KEYS for key in turn}
        for key in sorted(map(str, more - TURN_KEYS)):
            held = [turn.get(key) for turn in turns if isinstance(turn, Mapping)]
            if not _is_about(key, "openai") and any(given(i) and isinstance(i, str | list | Mapping) for i in held):
                yield column + _IN_TURN + key
