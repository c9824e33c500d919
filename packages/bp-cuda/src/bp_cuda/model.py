"""Loading and writing a base model, and trying how it can compute."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from bp_core.choices import Attention, DType
from bp_core.errors import ModelUnusable

from . import attention, attention_check, processor

_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Mean KL divergence in nats between a row computed alone and together with another: rounding stays below, a leak from
# one example to the next does not.
_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
# How far gradients of two ways to compute the same may be apart by rounding: relative norm of their difference.
_GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-1}


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


def isolate_examples(model: PreTrainedModel, wanted: Attention = "auto", faster: Sequence[str] = ()) -> bool:
    """Install an attention that keeps examples in one row apart; False if that does not work for this model.

    Then the model has the `wanted` attention (for auto, its own) and must compute one example at a time. Raises
    ModelUnusable for a model without that attention. With auto, the first of those that may be `faster` is taken that
    gives the same results and gradients.

    This is tried, not looked up: two short rows must give the same logits together as alone. That also catches layers
    with a recurrent state, learned positions and unknown kinds of attention.
    """
    own = model.config._attn_implementation
    attention.register()
    if not _isolates(model, attention.APART[wanted]):
        model.set_attn_implementation(own)
        if wanted != "auto" or own != "sdpa" or not _computes_alone(model, attention.NAME):
            _use(model, attention.ALONE.get(wanted, own), wanted)
        return False
    for implementation in faster if wanted == "auto" else ():
        lengths, ids = [len(row) for row in _rows(model)], torch.cat(_rows(model))
        row = {"input_ids": ids[None], **_together(model)}
        if attention_check.agrees(model, implementation, lengths, row):
            if _isolates(model, implementation):
                return True
            model.set_attn_implementation(attention.NAME)
    return True


def change(model: PreTrainedModel, apply: Callable[[], None]) -> bool:
    """Apply a change of how modules compute; False, and it is taken back, if logits or gradients are different then.

    Raises what `apply` raises.
    """
    before, reference = _logits_alone(model), _gradient(model)
    attributes = {module: dict(vars(module)) for module in model.modules()}
    apply()
    if _agrees(reference, model) and _equal(before, _logits_alone(model), model.dtype):
        return True
    for module, own in attributes.items():
        vars(module).clear()
        vars(module).update(own)
    return False


def _rows(model: PreTrainedModel) -> list[Tensor]:
    """Two short rows of token ids, int64 [7] and [11]."""
    size = min(model.config.get_text_config().vocab_size, 1000)
    return [torch.arange(7, device=model.device) * 37 % size, torch.arange(11, device=model.device) * 53 % size]


@torch.inference_mode()
def _logits_alone(model: PreTrainedModel) -> Tensor:
    return torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in _rows(model)])


def _equal(reference: Tensor, logits: Tensor, dtype: torch.dtype) -> bool:
    """Whether two sets of logits [tokens, vocabulary] agree but for rounding."""
    expected, actual = reference.float().log_softmax(-1), logits.float().log_softmax(-1)
    divergence: float = (expected.exp() * (expected - actual)).sum(-1).mean().item()
    return divergence <= _TOLERANCE[dtype]


def _computes_alone(model: PreTrainedModel, implementation: str) -> bool:
    """Whether each row alone gives the same with this attention, which it then has. Ours needs no masks."""
    before = _logits_alone(model)
    with contextlib.suppress(ValueError):
        model.set_attn_implementation(implementation)
    return _equal(before, _logits_alone(model), model.dtype)


def _isolates(model: PreTrainedModel, implementation: str) -> bool:
    """Whether two rows give the same logits together as alone, with this attention."""
    alone = _logits_alone(model)
    try:
        model.set_attn_implementation(implementation)
        with torch.inference_mode():
            together = model(input_ids=torch.cat(_rows(model))[None], **_together(model)).logits[0]
    except (ValueError, TypeError):  # the model says itself that it cannot
        return False
    return _equal(alone, together, model.dtype)


def _together(model: PreTrainedModel) -> dict[str, Any]:
    """What the model is told of the two rows laid end to end."""
    lengths = [len(row) for row in _rows(model)]
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])
    borders = attention.borders(model.config._attn_implementation, lengths, model.device)
    return {"position_ids": positions[None], **borders, "use_cache": False}


def _gradient(model: PreTrainedModel) -> Tensor | None:
    """The gradient of the two rows' embeddings, laid end to end, by their next tokens: float32 [18, width].

    None if the model cannot compute it.
    """
    ids = torch.cat(_rows(model))
    try:
        with torch.enable_grad():
            embedded = model.get_input_embeddings()(ids[None]).detach().requires_grad_()
            logits = model(inputs_embeds=embedded, **_together(model)).logits[0]
            gradient: Tensor = torch.autograd.grad(cross_entropy(logits[:-1].float(), ids[1:]), embedded)[0]
    except torch.OutOfMemoryError:
        raise
    except attention_check.CANNOT:
        return None
    return gradient[0].float()


def _agrees(reference: Tensor | None, model: PreTrainedModel) -> bool:
    """Whether the model gives that gradient but for rounding."""
    gradient = _gradient(model)
    if reference is None or gradient is None:
        return False
    return bool((gradient - reference).norm() <= _GRADIENT_TOLERANCE[model.dtype] * reference.norm())


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
