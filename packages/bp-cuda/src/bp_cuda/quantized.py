"""A frozen base in 4 or 8 bits, quantised by bitsandbytes while the 16-bit weights are loaded."""

from __future__ import annotations

from importlib import import_module

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from bp_core.choices import QUANTIZED, Mode

from . import requirements


def config(mode: Mode, computed: torch.dtype) -> BitsAndBytesConfig | None:
    """The quantisation of a mode's base; matrix products are in `computed`. Raises PackageMissing.

    qlora: 4-bit NormalFloat, its scales quantised again (arXiv:2305.14314). lora-8bit: LLM.int8() (arXiv:2208.07339).
    """
    if mode not in QUANTIZED:
        return None
    requirements.require(f"mode {mode}", "bitsandbytes", "--mode lora")
    import_module(".lean_bitsandbytes", __package__)  # before transformers loads it in its own way
    if mode == "lora-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=QUANTIZED[mode],
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed,
    )


def settle(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from changing the weights during inference.

    On processors with AVX-512 BF16 it repacks a layer's 4-bit weights at the first forward pass without gradients,
    rounds their scales to bfloat16 and does not undo that; rows of odd length make it fail.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
