"""A linear layer with an adapter beside it: LoRA (arXiv:2106.09685), rsLoRA (2312.03732), DoRA (2402.09353)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from bp_core.adapter_config import AdapterConfig


class LoraLinear(nn.Module):
    """W x + scale × B A x, in the base's number format. A is [rank, in] and B [out, rank], float32, as in PEFT.

    Dropout uses a stored random key, so that a layer computed twice (activation checkpointing) drops the same.
    """

    def __init__(self, base: nn.Module, a: mx.array, b: mx.array, settings: AdapterConfig) -> None:
        super().__init__()
        self.base = base
        self.lora_A, self.lora_B = a, b
        self._scale, self._dropout, self._on = settings.scale(), settings.dropout, True
        self._chance = mx.random.key(0)
        if settings.dora:
            self.lora_magnitude_vector = self._lengths()

    def __call__(self, x: mx.array) -> mx.array:
        result = self.base(x)
        if not self._on:
            return result
        dropped = self._dropped(x)
        low = (dropped @ self.lora_A.astype(x.dtype).T) @ self.lora_B.astype(x.dtype).T * self._scale
        if "lora_magnitude_vector" not in self:
            return result + low
        share = (self.lora_magnitude_vector / mx.stop_gradient(self._lengths())).astype(x.dtype)
        straight = result if dropped is x else self.base(dropped)
        if "bias" in self.base:
            straight = straight - self.base.bias
        return result + (share - 1) * straight + share * low

    def switch(self, on: bool) -> None:
        """Compute with the adapter, or as the base alone."""
        self._on = on

    def chance(self) -> mx.array:
        """The random key of dropout, uint32 [2]."""
        return self._chance

    def draw(self, key: mx.array | None = None) -> None:
        """Set the random key of dropout, to `key` or to a new one."""
        if key is not None:
            self._chance = key
        elif self._dropout and self.training:
            self._chance = mx.random.randint(0, 1 << 30, (2,), dtype=mx.int32).astype(mx.uint32)

    def _dropped(self, x: mx.array) -> mx.array:
        if not (self._dropout and self.training):
            return x
        keep = mx.random.bernoulli(1 - self._dropout, x.shape, key=self._chance)
        return x * keep.astype(x.dtype) / (1 - self._dropout)

    def _lengths(self) -> mx.array:
        """The L2 norm of each row of the adapted weight, float32 [out]."""
        return mx.linalg.norm(_weight(self.base).astype(mx.float32) + self._scale * self.lora_B @ self.lora_A, axis=1)


def shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, quantised or not."""
    rows, columns = layer.weight.shape
    return rows, columns * 32 // layer.bits if isinstance(layer, nn.QuantizedLinear) else columns


def _weight(layer: nn.Module) -> mx.array:
    if not isinstance(layer, nn.QuantizedLinear):
        return layer.weight
    options = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
    return mx.dequantize(layer.weight, layer.scales, layer.get("biases"), **options)
