"""Loading and writing a base model, and trying how it can compute."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from bp_core.choices import Attention, DType
from bp_core.errors import ModelUnusable

from . import attention, processor

_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Mean KL divergence in nats between a row computed alone and together with another: rounding stays below, a leak from
# one example to the next does not.
_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def load_base(
    folder: Path, dtype: torch.dtype, device: torch.device, quantization: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """The base model, frozen, in `dtype` on `device`; linear layers quantised if asked for. Raises ModelUnusable."""
    if not (folder / "config.json").is_file():
        raise ModelUnusable("config.json is missing.", where=str(folder))
    disable_progress_bar()  # ours is shown instead
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": device},
            local_files_only=True,
            trust_remote_code=False,  # a model is data; code that comes with it is not run
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnusable(str(error).split("\n")[0], where=str(folder)) from error
    model.requires_grad_(False)
    return model.eval()


def isolate_examples(model: PreTrainedModel, wanted: Attention = "auto") -> bool:
    """Install an attention that keeps examples in one row apart; False if that does not work for this model.

    Then the model has the `wanted` attention (for auto, its own) and must compute one example at a time. Raises
    ModelUnusable for a model without that attention.

    This is tried, not looked up: two short rows must give the same logits together as alone. That also catches layers
    with a recurrent state, learned positions and unknown kinds of attention.
    """
    own = model.config._attn_implementation
    attention.register()
    with torch.inference_mode():
        if _isolates(model, attention.APART[wanted]):
            return True
    _use(model, attention.ALONE.get(wanted, own), wanted)
    return False


@torch.inference_mode()
def change_checked(model: PreTrainedModel, what: str, change: Callable[[], None]) -> None:
    """Apply `change` to a model. Raises ModelUnusable if its logits are different then."""
    before = _logits_alone(model)
    change()
    if not _equal(before, _logits_alone(model), model.dtype):
        raise ModelUnusable(f"{what} change what {type(model).__name__} says.", fix="Leave them out.")


def _rows(model: PreTrainedModel) -> list[Tensor]:
    """Two short rows of token ids, int64 [7] and [11]."""
    size = min(model.config.get_text_config().vocab_size, 1000)
    return [torch.arange(7, device=model.device) * 37 % size, torch.arange(11, device=model.device) * 53 % size]


def _logits_alone(model: PreTrainedModel) -> Tensor:
    return torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in _rows(model)])


def _equal(reference: Tensor, logits: Tensor, dtype: torch.dtype) -> bool:
    """Whether two sets of logits [tokens, vocabulary] agree but for rounding."""
    expected, actual = reference.float().log_softmax(-1), logits.float().log_softmax(-1)
    divergence: float = (expected.exp() * (expected - actual)).sum(-1).mean().item()
    return divergence <= _TOLERANCE[dtype]


def _isolates(model: PreTrainedModel, implementation: str) -> bool:
    """Whether two rows give the same logits together as alone, with this attention."""
    rows, alone = _rows(model), _logits_alone(model)
    try:
        model.set_attn_implementation(implementation)
        together = model(
            input_ids=torch.cat(rows)[None],
            position_ids=torch.cat([torch.arange(len(row), device=model.device) for row in rows])[None],
            **attention.borders(implementation, [len(row) for row in rows], model.device),
            use_cache=False,
        ).logits[0]
    except (ValueError, TypeError):  # the model says itself that it cannot
        return False
    return _equal(alone, together, model.dtype)


def _use(model: PreTrainedModel, implementation: str, wanted: Attention) -> None:
    with contextlib.suppress(ValueError, ImportError):
        model.set_attn_implementation(implementation)
    if model.config._attn_implementation != implementation:
        fix = "Leave attention to auto: it takes what the model has."
        raise ModelUnusable(f"{type(model).__name__} has no attention {wanted}.", fix=fix)


def write(model: PreTrainedModel, folder: Path, whole: Mapping[str, Tensor]) -> None:
    """Write a model in Hugging Face's layout, in the number format in which it was trained.

    `whole` has the unsharded parameters, tied ones under their first name only.
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    named = model.named_parameters(remove_duplicate=False)
    weights = {name: whole[first[id(parameter)]] for name, parameter in named}
    model.save_pretrained(folder, state_dict=dict(model.state_dict()) | weights)


def number_formats(wanted: DType, device: torch.device, *, full: bool) -> tuple[torch.dtype, torch.dtype]:
    """The number format of weights, and that of matrix products (for auto bfloat16, where the hardware has it).

    With auto, a full fine-tune on the CPU keeps its weights in float32, because memory is cheap there.
    """
    if wanted != "auto":
        return _FORMATS[wanted], _FORMATS[wanted]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = processor.multiplies_bfloat16()
    computed = torch.bfloat16 if fast else torch.float32
    return (torch.float32 if full and device.type == "cpu" else computed), computed
