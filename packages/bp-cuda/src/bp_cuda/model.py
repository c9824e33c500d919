"""A base model from its folder."""

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
# Mean KL in nats between a row computed alone and in company: rounding stays below, a leak or an unknown kind of
# attention does not.
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


def separate(model: PreTrainedModel, wanted: Attention = "auto") -> bool:
    """Make examples that lie in one row blind to each other, by the attention that is wanted; False where that fails.

    Then it computes by that attention one example at a time; left to auto, by its own. Raises ModelUnusable for a model
    that does not know the attention at all.

    Tried, not looked up: two short rows must come out in company as they do alone, by the model's own attention. Layers
    that carry state from token to token, learned positions and unknown kinds of attention show here.
    """
    own = model.config._attn_implementation
    attention.register()
    with torch.inference_mode():
        if _apart(model, attention.APART[wanted]):
            return True
    _use(model, attention.ALONE.get(wanted, own), wanted)
    return False


@torch.inference_mode()
def keep_its_words(model: PreTrainedModel, what: str, change: Callable[[], None]) -> None:
    """Change how a model computes. Raises ModelUnusable if it computes something else then."""
    before = _alone(model)
    change()
    if not _equal(before, _alone(model), model.dtype):
        raise ModelUnusable(f"{what} change what {type(model).__name__} says.", fix="Leave them out.")


def _rows(model: PreTrainedModel) -> list[Tensor]:
    """Two short rows."""
    size = min(model.config.get_text_config().vocab_size, 1000)
    return [torch.arange(7, device=model.device) * 37 % size, torch.arange(11, device=model.device) * 53 % size]


def _alone(model: PreTrainedModel) -> Tensor:
    return torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in _rows(model)])


def _equal(truth: Tensor, found: Tensor, dtype: torch.dtype) -> bool:
    truth, found = truth.float().log_softmax(-1), found.float().log_softmax(-1)
    difference: float = (truth.exp() * (truth - found)).sum(-1).mean().item()
    return difference <= _TOLERANCE[dtype]


def _apart(model: PreTrainedModel, implementation: str) -> bool:
    """Whether this attention keeps two rows apart."""
    rows, alone = _rows(model), _alone(model)
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
    """Write a whole model in Hugging Face's layout, in the number format that it was trained in.

    `whole` has all numbers of its parameters, each under one name; tied ones have several.
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    named = model.named_parameters(remove_duplicate=False)
    weights = {name: whole[first[id(parameter)]] for name, parameter in named}
    model.save_pretrained(folder, state_dict=dict(model.state_dict()) | weights)


def number_formats(wanted: DType, device: torch.device, *, full: bool) -> tuple[torch.dtype, torch.dtype]:
    """What weights are kept in, and what products are computed in (bfloat16 where the hardware multiplies it).

    Trained weights stay in float32 on the host, where memory is cheap; a card holds them in bfloat16.
    """
    computed = _fast_format(device) if wanted == "auto" else _FORMATS[wanted]
    return (torch.float32 if full and wanted == "auto" and device.type == "cpu" else computed), computed


def _fast_format(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = processor.multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32
