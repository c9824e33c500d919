"""Linear layers that share their input, with their LoRA pairs, as one function that keeps only its input.

For layers with frozen weights W stacked to [out, in] and pairs A, B (arXiv:2106.09685, equation 3):

    z = prepare(x)        a norm, a gated activation, or x itself
    u = z Aᵀ              for all pairs at once
    y = z Wᵀ + s u Bᵀ     each pair only for the outputs of its own layer

The backward pass computes z again and needs x and u, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import Parameter

from . import dora
from .frozen_base import frozen_base, supports
from .lean_peft import LoraLayer
from .preparation import Preparation


@dataclass(frozen=True)
class LoraPair:
    """A pair A [rank, in], B [out, rank] whose product, times `scaling`, is added to the outputs in `columns`."""

    a: Parameter
    b: Parameter
    scaling: float
    columns: slice


class LoraGroup:
    """Layers with one input. `layers` are PEFT's LoRA layers, or plain linears that are not adapted."""

    def __init__(self, layers: Sequence[Any], prepare: Preparation) -> None:
        self.layers, self.prepare = list(layers), prepare
        self.base = frozen_base([base_layer(layer) for layer in layers])
        self.rows = _dora_rows(layers)
        self.columns = []
        start = 0
        for size in self.base.sizes:
            self.columns.append(slice(start, start + size))
            start += size

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, …] → [tokens, out], as the layers compute it one by one."""
        pairs = self.pairs()
        factors = [factor for pair in pairs for factor in (pair.a, pair.b)]
        y: Tensor = _Product.apply(x, self, pairs, *factors)
        if self.rows and pairs:
            y = dora.scale(y, self._row_factors())
        return y if self.base.bias is None else y + self.base.bias

    def _row_factors(self) -> Tensor:
        """DoRA's trained length of each output's row by its true one, float32 [out]; 1 for layers without."""
        parts = []
        for layer, rows in zip(self.layers, self.rows, strict=True):
            if rows is None:
                parts.append(torch.ones(base_layer(layer).out_features, device=base_layer(layer).weight.device))
                continue
            name = layer.active_adapters[0]
            lengths = rows.lengths(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
            parts.append(layer.lora_magnitude_vector[name].weight / lengths)
        return torch.cat(parts)

    def pairs(self) -> list[LoraPair]:
        """The pairs that count now: none while adapters are switched off."""
        pairs = []
        for layer, columns in zip(self.layers, self.columns, strict=True):
            if isinstance(layer, LoraLayer) and not layer.disable_adapters:
                for name in layer.active_adapters:
                    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                    pairs.append(LoraPair(a, b, layer.scaling[name], columns))
        return pairs


def base_layer(layer: nn.Module) -> Any:
    """The frozen layer below an adapter."""
    return layer.get_base_layer() if isinstance(layer, LoraLayer) else layer


def can_group(layers: Sequence[nn.Module]) -> bool:
    """Whether `LoraGroup` computes what these layers do: frozen weights, and pairs without dropout or a bias.

    DoRA only on plain weights, and with one adapter.
    """
    bases = [base_layer(layer) for layer in layers]
    return all(map(supports, bases)) and len({type(base) for base in bases}) == 1 and all(map(_plain, layers))


def _plain(layer: nn.Module) -> bool:
    if not isinstance(layer, LoraLayer):
        return True
    drops = any(not isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
    biased = any(pair.bias is not None for pair in layer.lora_B.values())
    return not (drops or biased or layer.merged) and (not layer.lora_variant or _is_dora(layer))


def _is_dora(layer: nn.Module) -> bool:
    if not isinstance(layer, LoraLayer) or type(layer.get_base_layer()) is not nn.Linear:
        return False
    return [type(variant).__name__ for variant in layer.lora_variant.values()] == ["DoraLinearVariant"]


def _dora_rows(layers: Sequence[Any]) -> list[dora.Rows | None]:
    """What DoRA needs of each layer's weight; nothing without DoRA. Asked for once the weights are stacked."""
    if not any(map(_is_dora, layers)):
        return []
    return [dora.Rows(base_layer(layer).weight.detach()) if _is_dora(layer) else None for layer in layers]


class _Product(Function):
    """y of the module's docstring. Gradients of the frozen weights are never computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: LoraGroup, pairs: list[LoraPair], *factors: Tensor) -> Tensor:
        z, _ = group.prepare(x)
        y = group.base.product(z)
        u = None
        if pairs:
            u = z @ _stacked_a(pairs, z.dtype).t()
            for ranks, pair in _ranks(pairs):
                y[:, pair.columns].addmm_(u[:, ranks], _scaled_b(pair, z.dtype).t())
        ctx.group, ctx.pairs = group, pairs
        ctx.save_for_backward(x if pairs or group.prepare.needs_input else None, u, *factors)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        group: LoraGroup = ctx.group
        pairs: list[LoraPair] = ctx.pairs
        x, u, *_ = ctx.saved_tensors
        dy = gradients[0].contiguous()
        z, prepared_backward = group.prepare(x)
        factors: list[Tensor | None] = []
        du = None
        if pairs:
            du = torch.empty_like(u)
            for ranks, pair in _ranks(pairs):
                torch.mm(dy[:, pair.columns], _scaled_b(pair, dy.dtype), out=du[:, ranks])
            factors = _factor_gradients(z, u, dy, du, pairs)
        if not ctx.needs_input_grad[0]:
            return (None, None, None, *factors)
        dz = group.base.gradient(dy)
        if du is not None:
            dz.addmm_(du, _stacked_a(pairs, dy.dtype))
        return (prepared_backward(dz), None, None, *factors)


def _factor_gradients(z: Tensor, u: Tensor, dy: Tensor, du: Tensor, pairs: list[LoraPair]) -> list[Tensor | None]:
    """dA [rank, in] and dB [out, rank] of each pair, in turn, in float32; None where one is frozen."""
    stacked = (du.t() @ z).float()
    gradients: list[Tensor | None] = []
    for ranks, pair in _ranks(pairs):
        gradients.append(stacked[ranks] if pair.a.requires_grad else None)
        b = (u[:, ranks].t() @ dy[:, pair.columns]).float().t() * pair.scaling if pair.b.requires_grad else None
        gradients.append(b)
    return gradients


def _ranks(pairs: list[LoraPair]) -> list[tuple[slice, LoraPair]]:
    """Each pair with its columns of u."""
    placed, start = [], 0
    for pair in pairs:
        end = start + pair.a.shape[0]
        placed.append((slice(start, end), pair))
        start = end
    return placed


def _stacked_a(pairs: list[LoraPair], dtype: torch.dtype) -> Tensor:
    """The A of all pairs, [ranks, in]."""
    return torch.cat([pair.a.detach() for pair in pairs]).to(dtype)


def _scaled_b(pair: LoraPair, dtype: torch.dtype) -> Tensor:
    """s B, [out, rank]."""
    return (pair.b.detach() * pair.scaling).to(dtype)
