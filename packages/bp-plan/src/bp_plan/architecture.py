"""A model's architecture, read from its config.json. Parameter counts and memory follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bp_core.config import ALL_LINEAR

# Families whose layers are built as `Architecture` describes; benchmarks/memory_grid.py tests each.
KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3"})


@dataclass(frozen=True)
class Linear:
    """One linear layer, a weight [outputs, inputs]. Those with the same `source` share their input."""

    name: str
    source: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Architecture:
    """A decoder of equal layers. Widths: `hidden`; all `queries` and `keys` of attention; `inner` of the gated MLP."""

    family: str
    hidden: int
    inner: int
    layers: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def known(self) -> bool:
        return self.family in KNOWN

    @property
    def fused(self) -> bool:
        """Whether one linear makes queries, keys and values, and another both gate and up projection."""
        return self.family == "phi3"

    @property
    def normed_heads(self) -> bool:
        """Whether queries and keys are normalised per head."""
        return self.family == "qwen3"

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linears of one layer."""
        h, q, k, f = self.hidden, self.queries, self.keys, self.inner
        into = [("qkv_proj", q + 2 * k)] if self.fused else [("q_proj", q), ("k_proj", k), ("v_proj", k)]
        gate = [("gate_up_proj", 2 * f)] if self.fused else [("gate_proj", f), ("up_proj", f)]
        return (
            *(Linear(name, "attention", h, size) for name, size in into),
            Linear("o_proj", "attended", q, h),
            *(Linear(name, "mlp", h, size) for name, size in gate),
            Linear("down_proj", "gated", f, h),
        )

    def adapted(self, targets: str) -> tuple[Linear, ...]:
        """The linears of one layer that get an adapter; `targets` is the setting target_modules."""
        names = {name.strip().rpartition(".")[2] for name in targets.split(",")}
        return tuple(linear for linear in self.linears if targets == ALL_LINEAR or linear.name in names)

    @property
    def parameters(self) -> int:
        layer = sum(linear.inputs * linear.outputs for linear in self.linears) + 2 * self.hidden
        layer += self.queries + 2 * self.keys if self.family == "qwen2" else 0  # its biases
        layer += 2 * self.head_dim if self.normed_heads else 0
        return self.embedding * (1 if self.tied else 2) + self.layers * layer + self.hidden

    @property
    def largest(self) -> int:
        """Parameters of the largest weight."""
        return max(self.embedding, *(linear.inputs * linear.outputs for linear in self.linears))

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; a tied head shares them."""
        return self.vocabulary * self.hidden

    def adapter(self, rank: int, targets: str = ALL_LINEAR) -> int:
        """Parameters of a LoRA adapter."""
        return self.layers * rank * sum(linear.inputs + linear.outputs for linear in self.adapted(targets))


def architecture(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture that a config.json describes; None if it says too little."""
    text = config | config.get("text_config", {})
    try:
        hidden, heads = text["hidden_size"], text["num_attention_heads"]
        head_dim = text.get("head_dim") or hidden // heads
        return Architecture(
            family=str(text.get("model_type", "")),
            hidden=hidden,
            inner=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=heads,
            queries=heads * head_dim,
            keys=(text.get("num_key_value_heads") or heads) * head_dim,
            head_dim=head_dim,
            vocabulary=text["vocab_size"],
            tied=bool(text.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError):
        return None
