"""Matrix products with frozen weights in float8, by torchao, which importing this module imports.

Forward in e4m3, gradients of outputs in e5m2 (arXiv:2209.05433). Each tensor has one scale, computed anew each time,
because not all cards support a scale for each row. Scales are powers of two, so that the rounding, and so the result
of an example, does not depend on the other examples in its batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchao.float8 import Float8LinearConfig
from torchao.float8.float8_linear import Float8Linear
from torchao.float8.float8_linear_utils import swap_linear_layers
from torchao.float8.float8_scaling_utils import hp_tensor_to_float8_dynamic
from torchao.float8.float8_training_tensor import GemmInputRole
from transformers import PreTrainedModel

from bp_core.errors import ModelUnusable

_SIDE = 16  # cards multiply float8 matrices whose sides are multiples of it


class FrozenFloat8Linear(Float8Linear):  # type: ignore[misc]  # torchao is untyped
    """A linear layer whose weights get no gradient.

    torchao's own layer would compute one, for which the number of tokens must be a multiple of 16.
    """

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        product: Tensor = _Product.apply(x, self.weight, self)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Product(torch.autograd.Function):
    """x Wᵀ for x [..., in] and W [out, in]; x is not kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: FrozenFloat8Linear) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.layer = layer
        cast = layer.config.cast_config_input.target_dtype
        rows = _in_float8(x.reshape(-1, x.shape[-1]), cast, GemmInputRole.INPUT, layer)
        return torch.mm(rows, _weight(weight.t(), layer)).reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,), layer, gradient = ctx.saved_tensors, ctx.layer, gradients[0]
        cast = layer.config.cast_config_grad_output.target_dtype
        rows = _in_float8(gradient.reshape(-1, gradient.shape[-1]), cast, GemmInputRole.GRAD_OUTPUT, layer)
        return torch.mm(rows, _weight(weight.t(), layer).t()).reshape(*gradient.shape[:-1], -1), None, None


def convert(model: PreTrainedModel, *, emulate: bool) -> None:
    """Make all linear layers of a frozen model but the head multiply in float8. Raises ModelUnusable.

    `emulate`: round to float8, but multiply in float32.
    """
    config = Float8LinearConfig(round_scales_to_power_of_2=True, emulate=emulate)
    head = model.get_output_embeddings()
    swap_linear_layers(
        model,
        partial(FrozenFloat8Linear.from_float, config=config),
        module_filter_fn=lambda layer, _: layer is not head and _fits(layer),
    )
    if not any(isinstance(layer, FrozenFloat8Linear) for layer in model.modules()):
        raise ModelUnusable(f"no linear layer has sides that are multiples of {_SIDE}, so fp8 would change nothing.")


def _fits(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and not (layer.in_features % _SIDE or layer.out_features % _SIDE)


def _weight(weight: Tensor, layer: FrozenFloat8Linear) -> Tensor:
    return _in_float8(weight, layer.config.cast_config_weight.target_dtype, GemmInputRole.WEIGHT, layer)


def _in_float8(values: Tensor, cast: torch.dtype, role: GemmInputRole, layer: FrozenFloat8Linear) -> Tensor:
    converted: Tensor = hp_tensor_to_float8_dynamic(
        values, cast, layer.linear_mm_config, gemm_input_role=role, round_scales_to_power_of_2=True
    )
    return converted
