"""A model's architecture, read from its config.json. Parameter counts and memory follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bp_core.config import ALL_LINEAR

# Families whose layers are built as `Architecture` describes; benchmarks/memory_grid.py tests each.
KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3", "qwen3_5_text"})


@dataclass(frozen=True)
class Linear:
    """One linear layer, a weight [outputs, inputs]. Those with the same `source` share their input."""

    name: str
    source: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class DeltaNet:
    """The layers of linear attention of a model that has both kinds: how many, their heads, the widths of a head."""

    layers: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def values(self) -> int:
        return self.value_heads * self.value_dim

    @property
    def convolved(self) -> int:
        """Width of queries, keys and values together."""
        return 2 * self.key_heads * self.key_dim + self.values


@dataclass(frozen=True)
class Architecture:
    """A decoder of equal layers, or of two kinds. Widths: `hidden`; all `queries` and `keys` of attention; `inner` of
    the gated MLP. `delta_net` has the layers that are of linear attention, None where all are of full attention."""

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
    delta_net: DeltaNet | None = None

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
    def gates_attention(self) -> bool:
        """Whether q_proj also makes a gate for what attention gives."""
        return self.delta_net is not None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linears of one layer of full attention."""
        h, q, k = self.hidden, self.queries, self.keys
        query = 2 * q if self.gates_attention else q
        into = [("qkv_proj", q + 2 * k)] if self.fused else [("q_proj", query), ("k_proj", k), ("v_proj", k)]
        attention = [Linear(name, "attention", h, size) for name, size in into]
        return (*attention, Linear("o_proj", "attended", q, h), *self._mlp)

    @property
    def delta_net_linears(self) -> tuple[Linear, ...]:
        """The linears of one layer of linear attention; none where there is none."""
        net = self.delta_net
        if net is None:
            return ()
        heads = net.value_heads
        into = {"in_proj_qkv": net.convolved, "in_proj_z": net.values, "in_proj_b": heads, "in_proj_a": heads}
        attention = [Linear(name, "attention", self.hidden, size) for name, size in into.items()]
        return (*attention, Linear("out_proj", "attended", net.values, self.hidden), *self._mlp)

    @property
    def _mlp(self) -> tuple[Linear, ...]:
        h, f = self.hidden, self.inner
        gate = [("gate_up_proj", 2 * f)] if self.fused else [("gate_proj", f), ("up_proj", f)]
        return (*(Linear(name, "mlp", h, size) for name, size in gate), Linear("down_proj", "gated", f, h))

    @property
    def kinds(self) -> tuple[tuple[int, tuple[Linear, ...]], ...]:
        """The kinds of layers: how many, and the linears of one."""
        if self.delta_net is None:
            return ((self.layers, self.linears),)
        full = self.layers - self.delta_net.layers
        return ((full, self.linears), (self.delta_net.layers, self.delta_net_linears))

    @property
    def all_linears(self) -> tuple[Linear, ...]:
        """The linears of all layers."""
        return tuple(linear for count, linears in self.kinds for linear in linears * count)

    def adapted(self, targets: str) -> tuple[Linear, ...]:
        """The linears of one layer of full attention that get an adapter; `targets`: the setting target_modules."""
        return chosen(self.linears, targets)

    @property
    def parameters(self) -> int:
        layer = 2 * self.hidden
        layer += self.queries + 2 * self.keys if self.family == "qwen2" else 0  # its biases
        layer += 2 * self.head_dim if self.normed_heads else 0
        weights = sum(linear.inputs * linear.outputs for linear in self.all_linears)
        others = self.embedding * (1 if self.tied else 2) + self.layers * layer + self.hidden
        return weights + others + self._delta_net_others

    @property
    def _delta_net_others(self) -> int:
        """Of linear attention the convolution, the decay and a norm; of full attention the norms of its heads."""
        net = self.delta_net
        if net is None:
            return 0
        each = net.kernel * net.convolved + 2 * net.value_heads + net.value_dim
        return net.layers * each + (self.layers - net.layers) * 2 * self.head_dim

    @property
    def largest(self) -> int:
        """Parameters of the largest weight."""
        return max(self.embedding, *(linear.inputs * linear.outputs for linear in self.all_linears))

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; a tied head shares them."""
        return self.vocabulary * self.hidden

    def adapter(self, rank: int, targets: str = ALL_LINEAR) -> int:
        """Parameters of a LoRA adapter."""
        return rank * sum(linear.inputs + linear.outputs for linear in chosen(self.all_linears, targets))


def chosen(linears: tuple[Linear, ...], targets: str) -> tuple[Linear, ...]:
    """The linears that get an adapter; `targets` is the setting target_modules."""
    names = {name.strip().rpartition(".")[2] for name in targets.split(",")}
    return tuple(linear for linear in linears if targets == ALL_LINEAR or linear.name in names)


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
            delta_net=_delta_net(text),
        )
    except (KeyError, TypeError):
        return None


def _delta_net(text: Mapping[str, Any]) -> DeltaNet | None:
    """The layers of linear attention, by their list or by how often one of full attention comes."""
    if "linear_num_value_heads" not in text:
        return None
    layers, interval = text["num_hidden_layers"], text.get("full_attention_interval", 4)
    kinds = text.get("layer_types")
    linear = kinds.count("linear_attention") if kinds else layers - layers // interval
    return DeltaNet(
        layers=linear,
        key_heads=text["linear_num_key_heads"],
        value_heads=text["linear_num_value_heads"],
        key_dim=text["linear_key_head_dim"],
        value_dim=text["linear_value_head_dim"],
        kernel=text.get("linear_conv_kernel_dim", 4),
    )
