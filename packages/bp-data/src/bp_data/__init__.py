"""Any chat or instruction file, checked, rendered with the model's own template, masked and batched.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .formats.detect import convert
    from .formats.records import Record
    from .masking.loss_mask import Masked, mask
    from .preparing.batches import Batches
    from .preparing.prepare import prepare
    from .preparing.prepared import Prepared, Report
    from .reading.files import Row, read
    from .tokenizer.chat_template import ChatTemplate
    from .tokenizer.chat_tokenizer import ChatTokenizer

__all__ = [
    "Batches",
    "ChatTemplate",
    "ChatTokenizer",
    "Masked",
    "Prepared",
    "Record",
    "Report",
    "Row",
    "convert",
    "mask",
    "prepare",
    "read",
]
_HOMES = {
    "Batches": "preparing.batches",
    "ChatTemplate": "tokenizer.chat_template",
    "ChatTokenizer": "tokenizer.chat_tokenizer",
    **dict.fromkeys(("Masked", "mask"), "masking.loss_mask"),
    **dict.fromkeys(("Prepared", "Report"), "preparing.prepared"),
    "Record": "formats.records",
    **dict.fromkeys(("Row", "read"), "reading.files"),
    "convert": "formats.detect",
    "prepare": "preparing.prepare",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
