"""Models loaded and adapted by Unsloth. Importing this module imports unsloth, which patches transformers."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bp_core.errors import ModelUnusable
from bp_core.recipe import Recipe

from .adapter import lora_settings
from .lean_peft import PeftModel

# Unsloth would take xformers where it is installed. Up to 0.0.32.post2 that runs Hopper's kernels on Blackwell cards
# (RTX 50, B200; facebookresearch/xformers#1329), and its wheels have none for RTX 50 (#1251). Without it, Unsloth
# attends by PyTorch's own kernels.
sys.modules.setdefault("xformers", None)  # type: ignore[arg-type]  # so that importing it fails, as if it were not there

# Unsloth counts its users by downloads from the hub at every loading.
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")

with redirect_stdout(sys.stderr), warnings.catch_warnings():  # it prints, and stdout is for data
    warnings.filterwarnings("ignore", "WARNING: Unsloth should be imported before", UserWarning)  # for trl's trainers
    from unsloth import FastLanguageModel


def load(folder: Path, recipe: Recipe, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load the base model, frozen. Raises ModelUnusable."""
    try:
        with redirect_stdout(sys.stderr):
            model, _ = FastLanguageModel.from_pretrained(
                model_name=str(folder),
                max_seq_length=recipe.max_length,
                dtype=dtype,
                load_in_4bit=recipe.mode == "qlora",
                device_map={"": device},
                use_exact_model_name=True,  # not Unsloth's own quantised copy
                trust_remote_code=False,
                local_files_only=True,
            )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelUnusable(f"Unsloth: {str(error).splitlines()[0]}", where=str(folder)) from error
    base: PreTrainedModel = model.requires_grad_(False).eval()
    return base


def adapt(model: PreTrainedModel, recipe: Recipe) -> PeftModel:
    """A fresh LoRA adapter in float32."""
    with redirect_stdout(sys.stderr):
        adapted: PeftModel = FastLanguageModel.get_peft_model(
            model,
            **lora_settings(recipe),
            use_gradient_checkpointing=False,  # the rail switches it on where it is wanted
            random_state=recipe.seed,
            max_seq_length=recipe.max_length,
        )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted
