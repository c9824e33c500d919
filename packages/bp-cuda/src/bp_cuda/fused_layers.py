"""Decoder layers of known families whose linears are computed in groups, and that keep little for the backward pass.

A layer keeps its two residual inputs, queries, keys and values, what attention gave, and both halves of the gate. All
else is computed again. Only the layer's `forward` is replaced: weights, adapters and names stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from .lora_group import LoraGroup, can_group
from .preparation import Gate, Norm, Preparation, Unchanged, prepared
from .rotary import Heads, normalise, rotate

# Attention classes that are computed as here, each with where its sliding window stands.
_ATTENTIONS = {
    "LlamaAttention": "",
    "MistralAttention": "config",
    "Qwen2Attention": "module",
    "Qwen3Attention": "module",
    "SmolLM3Attention": "module",
    "Phi3Attention": "config",
    "Gemma2Attention": "module",
    "Gemma3Attention": "module",
}
_QKV = (("qkv_proj",), ("q_proj", "k_proj", "v_proj"))
_GATE_UP = (("gate_up_proj",), ("gate_proj", "up_proj"))


def fuse(model: PreTrainedModel) -> int:
    """Replace the `forward` of all layers that can be; how many those are. `undo` takes it back."""
    layers = list(_known_layers(model))
    for layer in layers:
        kind: Any = type(layer)
        layer.fused = FusedLayer(layer)
        layer.__class__ = _fused_class(kind)
    return len(layers)


def undo(model: PreTrainedModel) -> None:
    """Give the layers their own `forward` again."""
    for layer in model.modules():
        if is_fused(layer):
            layer.__class__ = type(layer).__mro__[1]
            del layer.fused


def is_fused(layer: nn.Module) -> bool:
    return "fused" in vars(layer)


@cache
def _fused_class(kind: Any) -> Any:
    """A class of layers with our `forward`. A class, because transformers puts activation checkpointing around that of
    each class."""

    def forward(self: Any, hidden_states: Tensor, past_key_values: Any = None, **options: Any) -> Tensor:
        if past_key_values is None and len(hidden_states) == 1:
            result: Tensor = self.fused(hidden_states, **options)
        else:
            result = kind.forward(self, hidden_states, past_key_values=past_key_values, **options)
        return result

    return type(kind.__name__, (kind,), {"forward": forward})


class FusedLayer:
    """One decoder layer: attention and MLP, each after a norm, and before one in Gemma's layers."""

    def __init__(self, layer: Any) -> None:
        self.attention = FusedAttention(layer.self_attn, layer.input_layernorm)
        sandwich = hasattr(layer, "pre_feedforward_layernorm")
        self.after_attention = Norm(layer.post_attention_layernorm) if sandwich else None
        self.after_mlp = Norm(layer.post_feedforward_layernorm) if sandwich else None
        norm = layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm
        self.gate_up = LoraGroup(_linears(layer.mlp, _GATE_UP), Norm(norm))
        self.down = LoraGroup([layer.mlp.down_proj], Gate(_activation(layer.mlp)))

    def __call__(self, hidden_states: Tensor, **options: Any) -> Tensor:
        """[1, n, hidden] → [1, n, hidden]"""
        rows = hidden_states.view(hidden_states.shape[1:])
        rows = rows + _normed(self.attention(rows, **options), self.after_attention)
        rows = rows + _normed(self.down(self.gate_up(rows)), self.after_mlp)
        return rows.view_as(hidden_states)


class FusedAttention:
    """Queries, keys and values in one product, their rotation, attention, and the product with what it gave."""

    def __init__(self, module: Any, norm: nn.Module) -> None:
        config, self.module = module.config, module
        self.qkv = LoraGroup(_linears(module, _QKV), Norm(norm))
        self.out = LoraGroup([module.o_proj], Unchanged())
        norms = [Norm(getattr(module, name)) if hasattr(module, name) else None for name in ("q_norm", "k_norm")]
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, module.head_dim, *norms)
        self.options = _options(module)

    def __call__(self, rows: Tensor, position_embeddings: Any, attention_mask: Any = None, **options: Any) -> Tensor:
        """[n, hidden] → [n, hidden]"""
        qkv = self.qkv(rows)
        if getattr(self.module, "use_rope", True):
            cos, sin = position_embeddings
            qkv = rotate(qkv, self.heads, cos[0], sin[0])
        else:
            qkv = normalise(qkv, self.heads)
        query, key, value = self.heads.split(qkv)
        attend = AttentionInterface()[self.module.config._attn_implementation]
        dropout = self.module.attention_dropout if self.module.training else 0.0
        attended, _ = attend(
            self.module, query[None], key[None], value[None], attention_mask, dropout=dropout, **self.options | options
        )
        return self.out(attended.reshape(len(rows), -1))


def _known_layers(model: PreTrainedModel) -> Iterator[Any]:
    for layer in model.modules():
        attention: Any = getattr(layer, "self_attn", None)
        mlp: Any = getattr(layer, "mlp", None)
        if type(attention).__name__ not in _ATTENTIONS or mlp is None:
            continue
        if _drops(layer) or not Gate.supports(_activation(mlp)):
            continue
        groups = [_linears(attention, _QKV), [attention.o_proj], _linears(mlp, _GATE_UP), [mlp.down_proj]]
        if all(can_group(group) for group in groups):
            yield layer


def _linears(module: Any, names: tuple[tuple[str, ...], ...]) -> list[nn.Module]:
    """The linears under the first of the alternatives in `names` that the module has."""
    present = next(group for group in names if hasattr(module, group[0]))
    return [getattr(module, name) for name in present]


def _activation(mlp: Any) -> nn.Module | None:
    return getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)


def _drops(layer: nn.Module) -> bool:
    """Whether Phi's dropout between layers is on."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in layer.children())


def _options(module: Any) -> dict[str, Any]:
    """What the attention function is told of this layer."""
    place = _ATTENTIONS[type(module).__name__]
    options: dict[str, Any] = {"scaling": module.scaling}
    if place:
        options["sliding_window"] = getattr(module if place == "module" else module.config, "sliding_window", None)
    if type(module).__name__ == "Gemma2Attention":
        options["softcap"] = module.attn_logit_softcapping
    return options


def _normed(rows: Tensor, norm: Preparation | None) -> Tensor:
    return rows if norm is None else prepared(rows, norm)
