"""Any chat or instruction file, checked, rendered with the model's own template, masked and batched."""

from .batches import Batches
from .chat import ChatTokenizer
from .files import Row, read
from .formats import convert
from .masking import Masked, mask
from .prepare import prepare
from .prepared import Prepared, Report
from .records import Record
from .template import ChatTemplate

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
