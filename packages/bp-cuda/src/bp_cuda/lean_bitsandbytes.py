"""What we use of bitsandbytes, loaded without the package `kernels`.

On processors with AVX-512 BF16 bitsandbytes downloads compiled code from the Hugging Face hub and runs it, if `kernels`
is installed; else it logs that one should install it. Nothing is to be fetched or run that was not asked for, and what
it would bring changes weights (see `quantized.settle`). All modules of this package take bitsandbytes' names from here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

_HIDDEN = "kernels"


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Let imports find no `kernels` meanwhile."""
    modules = cast(dict[str, Any], sys.modules)  # None in place of a module: an import of it fails
    before = {_HIDDEN: modules[_HIDDEN]} if _HIDDEN in modules else {}
    modules[_HIDDEN] = None
    try:
        yield
    finally:
        del modules[_HIDDEN]
        modules.update(before)


logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it also logs every cast in every layer

with _without_kernels():
    from bitsandbytes import functional
    from bitsandbytes.optim.adamw import AdamW8bit

__all__ = ["AdamW8bit", "functional"]
