"""Whether another way to compute attention gives the results and gradients of ours, in each layer of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from . import attention

_NAME = "segments-compared"
# How far results and gradients may be apart by rounding in 16 bits: relative norm of their difference.
_TOLERANCE = 5e-2
# What a kernel raises that cannot compute on this machine.
CANNOT = (ValueError, TypeError, ImportError, RuntimeError)


@torch.no_grad()
def agrees(model: PreTrainedModel, other: str, lengths: Sequence[int], row: dict[str, Any]) -> bool:
    """Whether `other` gives what `attention.NAME` gives for random queries, keys and values of each layer's shapes.

    `row` is what the model's forward takes: examples of such `lengths`, in tokens, laid end to end. The model has
    `attention.NAME` afterwards.
    """
    comparison = _Comparison(other, attention.borders(other, lengths, model.device))
    AttentionInterface.register(_NAME, comparison)
    model.set_attn_implementation(_NAME)
    try:
        model(**row)
    except torch.OutOfMemoryError:
        raise
    except CANNOT:
        return False
    finally:
        model.set_attn_implementation(attention.NAME)
    return comparison.layers > 0 and comparison.differing == 0


class _Comparison:
    """An attention function that computes as ours does, and compares with another on the way."""

    def __init__(self, other: str, borders: dict[str, Any]) -> None:
        self.other, self.borders = other, borders
        self.layers = self.differing = 0

    def __call__(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **options: Any
    ) -> tuple[Tensor, None]:
        self.layers += 1
        ours = _tried(attention.NAME, module, (query, key, value), options)
        theirs = _tried(self.other, module, (query, key, value), options | self.borders)
        self.differing += not all(_same(*pair) for pair in zip(ours, theirs, strict=True))
        return attention.attend(module, query, key, value, mask, **options)


@torch.enable_grad()
def _tried(name: str, module: torch.nn.Module, shapes: Sequence[Tensor], options: dict[str, Any]) -> tuple[Tensor, ...]:
    """The result of random numbers in such shapes, and their gradients by random ones of the result."""
    chance = torch.Generator(shapes[0].device).manual_seed(0)

    def some(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=chance, device=like.device).to(like.dtype)

    inputs = [some(like).requires_grad_() for like in shapes]
    result: Tensor = AttentionInterface()[name](module, *inputs, None, **options)[0]
    return result, *torch.autograd.grad(result, inputs, some(result))


def _same(expected: Tensor, found: Tensor) -> bool:
    """Shapes and values, the latter but for rounding."""
    if expected.shape != found.shape:
        return False
    expected, found = expected.float(), found.float()
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())
