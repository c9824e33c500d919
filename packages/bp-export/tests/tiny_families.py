"""Tiny random models of every family we export, each with a tokenizer of its kind. Weights depend on names only."""

import json
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from bp_export.gguf.pre_tokenizers import PATTERNS
from bp_export.proof.corpus import TEXTS

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALL_TYPES = ("llama31", "qwen3.5", "gemma3")  # compared with the reference in every number format
WITH_LORA = ("llama31", "qwen3", "phi4-mini", "gemma3")  # as an adapter, too
SIZE = 1024
RUNS = range(12, 1, -1)
COMMON = dict(
    vocab_size=SIZE,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=4,
    pad_token_id=0,
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
    rope_theta=500000.0,
)
LONG = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    original_max_position_embeddings=256,
    partial_rotary_factor=0.75,
    short_factor=[1.0 + i / 100 for i in range(24)],
    long_factor=[1.0 + i / 4 for i in range(24)],
)
HYBRID = dict(
    num_hidden_layers=4,
    head_dim=64,
    linear_conv_kernel_dim=4,
    linear_key_head_dim=32,
    linear_value_head_dim=32,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    rope_parameters=dict(
        rope_type="default", rope_theta=1e6, partial_rotary_factor=0.25, mrope_section=[3, 3, 2], mrope_interleaved=True
    ),
)
WINDOWED = dict(head_dim=64, query_pre_attn_scalar=64, sliding_window=32)


@dataclass(frozen=True)
class Tiny:
    """One model: its class and config in transformers, settings beside COMMON, and how its tokenizer cuts text."""

    kind: str
    cut: str
    options: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.bfloat16
    inside: tuple[str, str] = ()  # architecture and kind of a model that also sees, around this one


FAMILIES = {
    "llama31": Tiny("Llama", "llama-bpe", dict(rope_parameters=LLAMA3, tie_word_embeddings=False)),
    "llama32": Tiny("Llama", "llama-bpe", dict(rope_parameters=LLAMA3, tie_word_embeddings=True, head_dim=128)),
    "llama-biases": Tiny("Llama", "llama-bpe", dict(attention_bias=True, mlp_bias=True), torch.float16),
    "smollm2": Tiny("Llama", "smollm", dict(tie_word_embeddings=True)),
    "smollm3": Tiny(
        "SmolLM3", "llama-bpe", dict(num_hidden_layers=4, tie_word_embeddings=True, use_sliding_window=False)
    ),
    "mistral": Tiny("Mistral", "pieces-always", dict(sliding_window=None, tie_word_embeddings=False)),
    "mistral-v3": Tiny("Mistral", "pieces-first", dict(sliding_window=None, tie_word_embeddings=False)),
    "mistral-small": Tiny("Mistral", "tekken", dict(sliding_window=None, head_dim=32, tie_word_embeddings=False)),
    "qwen2.5": Tiny("Qwen2", "qwen2", dict(tie_word_embeddings=True)),
    "qwen2.5-untied": Tiny("Qwen2", "qwen2", dict(tie_word_embeddings=False), torch.float16),
    "qwen3": Tiny("Qwen3", "qwen2", dict(head_dim=64, tie_word_embeddings=True)),
    "qwen3.5": Tiny("Qwen3_5", "qwen35", HYBRID | dict(tie_word_embeddings=True)),
    "qwen3.5-untied": Tiny("Qwen3_5", "qwen35", HYBRID | dict(tie_word_embeddings=False)),
    "phi4-mini": Tiny("Phi3", "gpt-4o", dict(rope_parameters=LONG, original_max_position_embeddings=256)),
    "gemma2": Tiny("Gemma2", "pieces-nowhere", WINDOWED | dict(tie_word_embeddings=True)),
    "gemma3": Tiny("Gemma3", "pieces-nowhere", WINDOWED | dict(num_hidden_layers=6, tie_word_embeddings=True)),
}
FAMILIES |= {
    "mistral-small-3.1": replace(
        FAMILIES["mistral-small"], inside=("Mistral3ForConditionalGeneration", "mistral3"), dtype=torch.float16
    ),
    "gemma3-4b": replace(FAMILIES["gemma3"], inside=("Gemma3ForConditionalGeneration", "gemma3")),
    "qwen3.5-mtp": replace(FAMILIES["qwen3.5"], inside=("Qwen3_5ForConditionalGeneration", "qwen3_5")),
}


def save(name, folder, **options):
    """Write a model with its tokenizer as a Hugging Face folder; `options` go to save_pretrained."""
    tiny = FAMILIES[name]
    text = "TextConfig" if tiny.kind in ("Qwen3_5", "Gemma3") else "Config"
    config = getattr(transformers, tiny.kind + text)(**COMMON | tiny.options)
    model = getattr(transformers, f"{tiny.kind}ForCausalLM")(config).to(tiny.dtype)
    with torch.no_grad():
        for key, value in model.named_parameters():
            start = float(value[0]) if key.endswith("norm.weight") else 0.0
            value.copy_(torch.from_numpy(weight(key, tuple(value.shape), start)))
    model.save_pretrained(folder, **options)
    save_tokenizer(tiny.cut, folder)
    if tiny.inside:
        _wrap(folder, *tiny.inside)
    return folder


def save_adapter(base, folder, *, only="", config=None, ranks=None, **more):
    """A LoRA adapter in PEFT's layout on every linear layer inside the layers of `base`; `more` are other tensors."""
    tensors = {}
    with safe_open(base / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - it is no dict
            if name.endswith("proj.weight") and only in name:
                module, (out, into) = name.removesuffix(".weight"), weights.get_slice(name).get_shape()
                rank = next((rank for part, rank in (ranks or {}).items() if part in name), 8)
                for part, shape in (("A", (rank, into)), ("B", (out, rank))):
                    key = f"base_model.model.{module}.lora_{part}.weight"
                    tensors[key] = torch.from_numpy(weight(key, shape, 0.0))
    folder.mkdir()
    save_file(
        tensors | {key: torch.from_numpy(value) for key, value in more.items()}, folder / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": str(base)} | (config or {})
    modules = [key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for key in tensors]
    named = sorted(module for module, key in zip(modules, tensors, strict=True) if ".lora_A." in key)
    settings["target_modules"] = named if only else sorted({module.rpartition(".")[2] for module in named})
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _wrap(folder, architecture, kind):
    """As the text part of a larger model: other names, weights that are not wanted, settings one level down."""
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del text["architectures"]
    config = {
        "architectures": [architecture],
        "model_type": kind,
        "text_config": text,
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(folder / "model.safetensors")
    named = {f"language_model.{name}": value for name, value in tensors.items()}
    for extra in ("vision_tower.patch.weight", *(["mtp.fc.weight"] if kind == "qwen3_5" else [])):
        named[extra] = torch.zeros(4, 4)
    save_file(named, folder / "model.safetensors")


def weight(name, shape, start):
    """Random values that depend on the name; those of one dimension are large, so that a forgotten one shows."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return (random.standard_normal(shape) * (0.2 if len(shape) == 1 else 0.06) + start).astype(np.float32)


def save_tokenizer(cut, folder):
    tokenizer = pieces(cut) if cut.startswith("pieces") else byte_level(cut)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def byte_level(cut):
    tokenizer = Tokenizer(models.BPE(ignore_merges=cut in ("llama-bpe", "tekken")))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps(cut))
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS] * 3, trainer)
    tokenizer.add_tokens(["<tool>"])
    return tokenizer


def steps(cut):
    if cut == "smollm":
        return [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    split = pre_tokenizers.Split(Regex(PATTERNS[cut]), "removed" if cut == "gpt-4o" else "isolated", cut == "gpt-4o")
    return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def pieces(cut):
    """SentencePiece BPE with byte fallback, as tokenizers writes it: special tokens, bytes, merged pieces, letters."""
    found = Tokenizer(models.BPE())
    found.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False)
    found.train_from_iterator([" ".join(TEXTS[:4])] * 3, trainer)
    merges = [tuple(pair) for pair in json.loads(found.to_str())["model"]["merges"]]
    if cut == "pieces-nowhere":  # as Gemma has it: runs of spaces are tokens, the longest first
        merges = [("▁" * left, "▁" * (run - left)) for run in RUNS for left in range(1, run)] + merges
    made = list(dict.fromkeys(left + right for left, right in merges))
    letters = sorted({letter for text in found.get_vocab() for letter in text})
    words = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *made, *letters]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    _prepare(tokenizer, cut)
    special = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.post_processor = special
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    runs = ["▁" * run for run in RUNS] if cut == "pieces-nowhere" else []
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in [*runs, "<unused7>"]])
    return tokenizer


def _prepare(tokenizer, cut):
    replace = normalizers.Replace(" ", "▁")
    if cut == "pieces-always":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif cut == "pieces-first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = replace
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
