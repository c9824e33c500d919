"""With what a trained model reads and writes: tokenizer, chat template, ends of a turn, and where each is from.

Our own training writes a contract. A folder from elsewhere has none: there its own tokenizer files count before those
of the base, and the ends of a turn are those that its chat template writes after an answer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bp_core import folders
from bp_core.contract import CONTRACT_FILE, Bos, Contract
from bp_core.errors import OutputUnusable, TemplateUnusable
from bp_core.model_files import SETTINGS, VOCABULARY, other_vocabulary, read_json, read_vocabulary

from .chat_template import ChatTemplate
from .weights.model_files import chat_template, special_token

TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = (
    *(VOCABULARY, SETTINGS, "special_tokens_map.json", "added_tokens.json", TEMPLATE),
    *("tokenizer.model", "vocab.json", "merges.txt"),
)
_ADAPTER, _BASE = "the adapter", "the base"
_ANSWER = "\u2402answer\u2403"  # in no template


@dataclass(frozen=True)
class TrainedTokenizer:
    """`folder` has the tokenizer's files. `contract` is that of training, or `derived` from them.

    `origins` says for "tokenizer", "chat template" and "end of turn" where it is from.
    """

    folder: Path
    contract: Contract | None
    origins: Mapping[str, str] = field(default_factory=dict)
    derived: bool = True


def trained_tokenizer(adapter: Path | None, base: Path) -> TrainedTokenizer:
    """The tokenizer of what was trained. Raises AdapterUnusable for a damaged contract."""
    if contract := Contract.read(adapter or base):
        origins = {"tokenizer": _BASE, "chat template": "the contract", "end of turn": "the contract"}
        return TrainedTokenizer(base, contract, origins, derived=False)
    if adapter is None:
        return TrainedTokenizer(base, _derived(base))
    folder = tokenizer_folder(adapter, base)
    own = [name for name in (VOCABULARY, SETTINGS, TEMPLATE) if (adapter / name).is_file()]
    has_template = bool(chat_template(adapter))
    origins = {
        "tokenizer": _ADAPTER if VOCABULARY in own else _BASE,
        "chat template": (_ADAPTER if has_template else _BASE) if chat_template(folder) else "none",
        "end of turn": "the chat template" if chat_template(folder) else "the tokenizer",
    }
    return TrainedTokenizer(folder, _derived(folder), origins)


def tokenizer_folder(adapter: Path | None, base: Path) -> Path:
    """A folder with the tokenizer's files: of our own training the base's, else the adapter's and what it lacks."""
    if adapter is None or (adapter / CONTRACT_FILE).is_file():
        return base
    whole = (adapter / VOCABULARY).is_file() and (adapter / SETTINGS).is_file()
    if whole and (chat_template(adapter) or not chat_template(base)):
        return adapter
    if not any((adapter / name).is_file() for name in TOKENIZER_FILES):
        return base
    _require_readable(adapter, base)
    files = dict(_joined_files(adapter, base))
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    folder = folders.home() / "tokenizers" / digest.hexdigest()[:16]
    if not (folder / folders.MANIFEST).is_file():
        _write(folder, files)
    return folder


def _require_readable(adapter: Path, base: Path) -> None:
    """Raise ModelUnusable for an adapter's tokenizer of a kind that is not read, unless it is just the base's."""
    other = other_vocabulary(adapter)
    if other is None:
        return
    own, bases = adapter / other, base / other
    if not (bases.is_file() and bases.read_bytes() == own.read_bytes()):
        read_vocabulary(adapter)


def _joined_files(adapter: Path, base: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents. The base's vocabulary goes with the base's other files of it only."""
    own_vocabulary = (adapter / VOCABULARY).is_file()
    for name in TOKENIZER_FILES:
        places = [adapter] if own_vocabulary and name not in (SETTINGS, TEMPLATE) else [adapter, base]
        found = next((place / name for place in places if (place / name).is_file()), None)
        if found and name not in (SETTINGS, TEMPLATE):
            yield name, found.read_bytes()
    template = chat_template(adapter) or chat_template(base)
    settings = _settings(base) | _settings(adapter)
    settings.pop("chat_template", None)
    yield SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False).encode()
    if template:
        yield TEMPLATE, template.encode()


def _settings(folder: Path) -> dict[str, Any]:
    return read_json(folder / SETTINGS, optional=True)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        with folders.new_folder(folder) as draft:
            for name, content in files.items():
                (draft / name).write_bytes(content)
    except OutputUnusable:
        if not (folder / folders.MANIFEST).is_file():  # else another process was quicker
            raise


def _derived(folder: Path) -> Contract | None:
    """The contract that the tokenizer's files imply; None where there is none, or not of the `tokenizers` library.

    Raises ModelUnusable for a tokenizer that must be converted first.
    """
    if not (folder / VOCABULARY).is_file() and other_vocabulary(folder) is None:
        return None
    vocabulary = read_vocabulary(folder)
    if not isinstance(vocabulary.get("model"), dict):
        return None
    tokenizer = Tokenizer.from_file(str(folder / VOCABULARY))
    eos = special_token(folder, "eos_token")
    template = chat_template(folder)
    text = _conversation(folder, template)
    ends = _added_after_answer(tokenizer, text)
    number = tokenizer.token_to_id(eos) if eos else None
    terminators = tuple(dict.fromkeys([*ends, *([] if number is None else [number])]))
    stop = tuple(str(tokenizer.id_to_token(end)) for end in terminators)
    return Contract(template, _bos(folder, tokenizer, text), terminators, stop)


def _conversation(folder: Path, template: str) -> str:
    """A question and its answer as the template writes them; "" where it cannot."""
    if not template:
        return ""
    bos, eos = (special_token(folder, name) or "" for name in ("bos_token", "eos_token"))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _ANSWER}]
    try:
        return ChatTemplate(template, bos, eos).render(turns, answer=False)
    except TemplateUnusable:
        return ""


def _added_after_answer(tokenizer: Tokenizer, text: str) -> list[int]:
    """The first and the last added token after the answer: generation may end at either."""
    _, found, after = text.partition(_ANSWER)
    if not found:
        return []
    added = tokenizer.get_added_tokens_decoder()
    ids = tokenizer.encode(after, add_special_tokens=False).ids
    ends = [number for number in ids if number in added and added[number].content.strip()]
    return list(dict.fromkeys([*ends[:1], *ends[-1:]]))


def _bos(folder: Path, tokenizer: Tokenizer, text: str) -> Bos:
    """Who writes the first token: the template's text, the tokenizer, or nobody."""
    bos = special_token(folder, "bos_token")
    if bos and text.startswith(bos):
        return "template"
    encoding = tokenizer.encode("a", add_special_tokens=True)
    return "tokenizer" if encoding.special_tokens_mask[:1] == [1] else "none"


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files from one folder to another."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
