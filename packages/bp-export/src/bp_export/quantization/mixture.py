"""Which number format each tensor of a file gets: llama.cpp's mixtures, for models without experts.

A name such as q4_k_m stands for a mixture: tensors that matter more get more bits. These are the rules of
llama.cpp's src/llama-quant.cpp (llama_tensor_get_type), by which its files and ours are the same byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Type

from bp_core.errors import UnknownQuantization

from ..gguf.reader import GgufFile

# What a row gets that is not made of whole blocks of 256 values.
_SMALLER_BLOCKS = {
    Type.IQ3_S: Type.IQ4_NL,
    Type.IQ4_XS: Type.IQ4_NL,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}
_BLOCK = re.compile(r"blk\.(\d+)\.")
_QUERY_HEADS_A_KEY = 4  # from so many on, the values' projection is small enough to get more bits
_LARGEST = 80  # layers of the 70 B models, whose values' projection is an eighth of the queries'


@dataclass(frozen=True)
class Place:
    """Where a tensor stands among those of its kind: the `number`th of `count`, in the order of the layers."""

    number: int
    count: int
    query_heads: int  # that share one key head
    importance: bool  # whether there is an importance matrix

    @property
    def first_eighth(self) -> bool:
        return self.number < self.count // 8

    @property
    def matters_more(self) -> bool:
        """The first and last eighth of the layers, and every third between."""
        first, last = self.count // 8, 7 * self.count // 8
        return self.number < first or self.number >= last or (self.number - first) % 3 == 2


Rule = Callable[[Place], Type]


def _always(type_: Type) -> Rule:
    return lambda place: type_


@dataclass(frozen=True)
class Mixture:
    """One mixture: the usual format, and the rules for the three kinds of tensors that may get another.

    `values` are the projections of attention's values (or of queries, keys and values in one), `output` those behind
    attention, `down` those that lead out of a layer's feed-forward part.
    """

    file_type: LlamaFileType
    usual: Type
    values: Rule
    down: Rule
    output: Type


def _k_quant(file_type: LlamaFileType, usual: Type, better: Type, chosen: Callable[[Place], bool]) -> Mixture:
    """`better` for values and down projections where `chosen`, `usual` elsewhere."""

    def rule(place: Place) -> Type:
        return better if chosen(place) else usual

    return Mixture(file_type, usual, rule, rule, usual)


def _q4_k_s_values(place: Place) -> Type:
    return Type.Q5_K if place.number < 4 else Type.Q4_K


def _q4_k_s_down(place: Place) -> Type:
    return Type.Q5_K if place.first_eighth else Type.Q4_K


def _q3_k_m_values(place: Place) -> Type:
    return Type.Q5_K if place.number < 2 else Type.Q4_K


def _q3_k_m_down(place: Place) -> Type:
    return Type.Q5_K if place.number < place.count // 16 else Type.Q4_K


def _iq4_xs_values(place: Place) -> Type:
    return Type.Q5_K if place.query_heads >= _QUERY_HEADS_A_KEY else Type.IQ4_XS


def _iq4_xs_down(place: Place) -> Type:
    return Type.Q5_K if place.first_eighth and not place.importance else Type.IQ4_XS


def _iq3_m_down(place: Place) -> Type:
    return Type.Q4_K if place.first_eighth else Type.IQ3_S


def _q4_0_down(place: Place) -> Type:
    return Type.Q4_1 if place.first_eighth and place.importance else Type.Q4_0


def _matters_more(place: Place) -> bool:
    return place.matters_more


def _never(place: Place) -> bool:
    return False


_FILE = LlamaFileType
MIXTURES: Mapping[str, Mixture] = {  # from the smallest to the largest
    "iq3_m": Mixture(_FILE.MOSTLY_IQ3_M, Type.IQ3_S, _always(Type.Q4_K), _iq3_m_down, Type.Q4_K),
    "q3_k_m": Mixture(_FILE.MOSTLY_Q3_K_M, Type.Q3_K, _q3_k_m_values, _q3_k_m_down, Type.Q4_K),
    "iq4_xs": Mixture(_FILE.MOSTLY_IQ4_XS, Type.IQ4_XS, _iq4_xs_values, _iq4_xs_down, Type.IQ4_XS),
    "q4_0": Mixture(_FILE.MOSTLY_Q4_0, Type.Q4_0, _always(Type.Q4_0), _q4_0_down, Type.Q4_0),
    "q4_k_s": Mixture(_FILE.MOSTLY_Q4_K_S, Type.Q4_K, _q4_k_s_values, _q4_k_s_down, Type.Q4_K),
    "q4_k_m": _k_quant(_FILE.MOSTLY_Q4_K_M, Type.Q4_K, Type.Q6_K, _matters_more),
    "q5_k_s": _k_quant(_FILE.MOSTLY_Q5_K_S, Type.Q5_K, Type.Q5_K, _never),
    "q5_k_m": _k_quant(_FILE.MOSTLY_Q5_K_M, Type.Q5_K, Type.Q6_K, _matters_more),
    "q6_k": _k_quant(_FILE.MOSTLY_Q6_K, Type.Q6_K, Type.Q6_K, _never),
    "q8_0": _k_quant(_FILE.MOSTLY_Q8_0, Type.Q8_0, Type.Q8_0, _never),
}


def mixture(quantization: str) -> Mixture:
    """The mixture of that name. Raises UnknownQuantization."""
    if quantization not in MIXTURES:
        raise UnknownQuantization(f"{quantization!r} is not one of {', '.join(MIXTURES)}.")
    return MIXTURES[quantization]


def in_order(names: Sequence[str]) -> list[str]:
    """Tensor names as llama.cpp writes them: what belongs to no layer first, then layer by layer, each by name."""
    return sorted(names, key=lambda name: (_layer(name), name))


def types(gguf: GgufFile, quantization: str, *, importance: bool) -> dict[str, Type]:
    """The format of each tensor of a float file in that mixture, in llama.cpp's order.

    `importance`: whether there is an importance matrix, with which some tensors get by with fewer bits.
    """
    chosen = mixture(quantization)
    names = in_order(list(gguf.tensors))
    places = dict(_places(gguf, names, importance))
    return {name: _type(name, gguf, chosen, places.get(name)) for name in names}


def _layer(name: str) -> int:
    match = _BLOCK.match(name)
    return int(match[1]) if match else -1


def _places(gguf: GgufFile, names: Sequence[str], importance: bool) -> Iterator[tuple[str, Place]]:
    """The places of values and down projections: llama.cpp counts the first it finds, the latter by layers."""
    architecture = gguf.field("general.architecture")
    heads = gguf.field(f"{architecture}.attention.head_count")
    key_heads = gguf.fields.get(f"{architecture}.attention.head_count_kv", heads)
    shared = heads // key_heads if key_heads else 0
    values = [name for name in names if _is_values(name)]
    for number, name in enumerate(values):
        yield name, Place(number, len(values), shared, importance)
    layers = gguf.field(f"{architecture}.block_count")
    for number, name in enumerate(name for name in names if name.endswith("ffn_down.weight")):
        yield name, Place(number, layers, shared, importance)


def _type(name: str, gguf: GgufFile, mixture: Mixture, place: Place | None) -> Type:
    tensor = gguf.tensors[name]
    if len(tensor.shape) < 2 or not _is_packed(name):
        return tensor.type
    columns = tensor.shape[-1]
    if name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in gguf.tensors):
        wanted = _output_type(mixture, columns)
    elif place and _is_values(name):
        wanted = _largest(gguf, mixture.values(place))
    elif place:
        wanted = mixture.down(place)
    elif "attn_output.weight" in name:
        wanted = mixture.output
    else:
        wanted = mixture.usual
    return _fitting(wanted, columns)


def _is_values(name: str) -> bool:
    return name.endswith(("attn_v.weight", "attn_qkv.weight"))


def _is_packed(name: str) -> bool:
    """Whether llama.cpp packs a matrix; norms and the small convolutions of Qwen 3.5 it leaves."""
    return name.endswith("weight") and "_norm.weight" not in name and "ssm_conv1d" not in name


def _output_type(mixture: Mixture, columns: int) -> Type:
    """That of the last matrix, which is the embedding's too where the two are one."""
    whole = columns % GGML_QUANT_SIZES[mixture.usual][0] == 0
    return Type.Q6_K if whole and mixture.usual != Type.Q8_0 else Type.Q8_0


def _largest(gguf: GgufFile, wanted: Type) -> Type:
    architecture = gguf.field("general.architecture")
    heads = gguf.field(f"{architecture}.attention.head_count")
    several = heads != gguf.fields.get(f"{architecture}.attention.head_count_kv", heads)
    large = gguf.field(f"{architecture}.block_count") == _LARGEST
    if large and (architecture == "qwen2" or (architecture == "llama" and several)):
        return Type.Q5_K if wanted in (Type.Q3_K, Type.Q4_K) else wanted
    return wanted


def _fitting(wanted: Type, columns: int) -> Type:
    """The wanted format, or the nearest one whose blocks fill a row; float16 where none does."""
    if columns % GGML_QUANT_SIZES[wanted][0] == 0:
        return wanted
    smaller = _SMALLER_BLOCKS.get(wanted, Type.F16)
    return smaller if columns % GGML_QUANT_SIZES[smaller][0] == 0 else Type.F16
