"""What we use of PEFT, loaded without bitsandbytes, which costs a third of a start and serves quantised bases only.

PEFT loads bitsandbytes where it finds it, and that brings torch's whole compiler. All modules of this package take
PEFT's names from here, so that it is loaded once and so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

_HIDDEN = "bitsandbytes"


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Let imports find no bitsandbytes meanwhile. Where it is loaded already, there is nothing to save.

    Afterwards PEFT looks for it anew, so that a quantised base can be opened in the same process.
    """
    modules = cast(dict[str, Any], sys.modules)  # None in place of a module: an import of it fails
    if _HIDDEN in modules:
        yield
        return
    modules[_HIDDEN] = None
    _forget_answers()
    try:
        yield
    finally:
        del modules[_HIDDEN]
        _forget_answers()


def _forget_answers() -> None:
    """PEFT keeps the answers of its questions for bitsandbytes, which are others now."""
    if asks := sys.modules.get("peft.import_utils"):
        asks.is_bnb_available.cache_clear()
        asks.is_bnb_4bit_available.cache_clear()


with without_bitsandbytes():
    from peft import LoraConfig, PeftModel, PeftModelForCausalLM, get_peft_model, get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

__all__ = [
    "LoraConfig",
    "LoraLayer",
    "PeftModel",
    "PeftModelForCausalLM",
    "dequantize_module_weight",
    "get_peft_model",
    "get_peft_model_state_dict",
    "without_bitsandbytes",
]
