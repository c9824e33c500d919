"""Complete a folder that leaves: the chat template of training, and the ends of a turn wherever programs look for them.

transformers and vLLM stop at eos_token_id of generation_config.json; llama.cpp's converter and others read config.json
and the eos_token in tokenizer_config.json. A base's own are often not what ends a turn (Qwen 2.5: <|endoftext|>).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bp_core import folders
from bp_core.contract import Contract
from bp_core.errors import TemplateUnusable
from bp_core.model_files import SETTINGS, read_json

from .chat_template import ChatTemplate
from .trained_tokenizer import TEMPLATE
from .weights.model_files import chat_template, special_token

GENERATION, CONFIG, SPECIAL = "generation_config.json", "config.json", "special_tokens_map.json"
_EOS_ID, _EOS = "eos_token_id", "eos_token"
_CONVERSATION = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo."})


def complete(folder: Path, contract: Contract) -> None:
    """Write template and ends of a turn into the files of a model's or an adapter's folder. What is right is kept."""
    if contract.template and chat_template(folder) != contract.template:
        # transformers prefers this file over the template in tokenizer_config.json
        (folder / TEMPLATE).write_bytes(contract.template.encode())
    if not contract.terminators:
        return
    _set_eos_token(folder, contract)
    if (folder / CONFIG).is_file():
        for name in (CONFIG, GENERATION):
            _set_eos_ids(folder / name, contract.terminators)


def eos_ids(path: Path) -> list[int]:
    """The ids that end an answer, as a config.json or generation_config.json says."""
    value = read_json(path, optional=True).get(_EOS_ID)
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def missing_ends(folder: Path, contract: Contract) -> list[str]:
    """The files of a model's folder that do not name each end of a turn."""
    if not contract.terminators:
        return []
    wanted = set(contract.terminators)
    missing = [name for name in (GENERATION, CONFIG) if not wanted <= set(eos_ids(folder / name))]
    token = special_token(folder, _EOS)
    if token not in contract.stop and _may_be_eos(folder, contract):
        missing.append(SETTINGS)
    return missing


def _set_eos_ids(path: Path, terminators: Sequence[int]) -> None:
    """Add the ends of a turn before those that are there."""
    known = eos_ids(path)
    if set(terminators) <= set(known):
        return
    ids = list(dict.fromkeys([*terminators, *known]))
    value: Any = ids if len(ids) > 1 else ids[0]
    folders.write_json(path, read_json(path, optional=True) | {_EOS_ID: value})


def _set_eos_token(folder: Path, contract: Contract) -> None:
    """Let the tokenizer's eos_token be an end of a turn, unless the template then writes another text."""
    if special_token(folder, _EOS) in contract.stop or not _may_be_eos(folder, contract):
        return
    for name in (SETTINGS, SPECIAL):
        settings = read_json(folder / name, optional=True)
        if settings:
            folders.write_json(folder / name, settings | {_EOS: contract.stop[0]})


def _may_be_eos(folder: Path, contract: Contract) -> bool:
    """Whether the template writes the same with the end of a turn as its eos_token."""
    if not contract.template:
        return True
    bos, eos = (special_token(folder, name) or "" for name in ("bos_token", _EOS))
    try:
        texts = [ChatTemplate(contract.template, bos, end).render(_CONVERSATION) for end in (eos, contract.stop[0])]
    except TemplateUnusable:
        return False
    return texts[0] == texts[1]
