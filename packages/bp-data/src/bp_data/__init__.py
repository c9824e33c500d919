"""Any chat or instruction file, checked, rendered with the model's own template, masked and batched."""

from .batches import Batches, Step
from .chat import ChatTokenizer
from .files import Row, read
from .formats import Record, convert
from .masking import Masked, mask
from .prepare import Prepared, Report, prepare

__all__ = [
    "Batches",
    "ChatTokenizer",
    "Masked",
    "Prepared",
    "Record",
    "Report",
    "Row",
    "Step",
    "convert",
    "mask",
    "prepare",
    "read",
]
