"""Any chat or instruction file, checked, rendered with the model's own template, masked and batched.

Names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bp_core.lazy_names import lazy_names

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
    "Batches": ".preparing.batches",
    "ChatTemplate": ".tokenizer.chat_template",
    "ChatTokenizer": ".tokenizer.chat_tokenizer",
    **dict.fromkeys(("Masked", "mask"), ".masking.loss_mask"),
    **dict.fromkeys(("Prepared", "Report"), ".preparing.prepared"),
    "Record": ".formats.records",
    **dict.fromkeys(("Row", "read"), ".reading.files"),
    "convert": ".formats.detect",
    "prepare": ".preparing.prepare",
}
__getattr__ = lazy_names(__name__, _HOMES)
