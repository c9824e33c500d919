"""What llama.cpp's own converter makes of the tiny families → reference.json, with which test_families.py compares.

    PYTHONPATH=LLAMA_CPP_FOLDER/gguf-py python reference.py LLAMA_CPP_FOLDER

Needs, beside our own development environment, the package sentencepiece.
"""

import hashlib
import json
import logging
import runpy
import sys
import tempfile
from pathlib import Path

import tiny_families

from bp_export.gguf.reader import GgufFile
from bp_export.gguf.vocabulary import read as read_vocabulary

PLACE = Path(__file__).with_name("reference.json")
TYPES = ["f16", "bf16", "q8_0"]
LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores", "tokenizer.ggml.merges")


def summary(path):
    """All that a GGUF file holds: fields (long ones as digests), and type, shape and digest of each tensor."""
    file = GgufFile(path)
    fields = {name: _short(name, value) for name, value in file.fields.items()}
    tensors = {
        name: [tensor.type.name, list(tensor.shape), hashlib.sha256(file.raw(name).tobytes()).hexdigest()[:16]]
        for name, tensor in file.tensors.items()
    }
    return {"fields": fields, "tensors": tensors}


def _short(name, value):
    if name not in LISTS:
        return value
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def write_pieces(folder, words):
    """The tokenizer.model that a SentencePiece vocabulary comes from."""
    from sentencepiece import sentencepiece_model_pb2 as pb  # noqa: PLC0415

    kinds = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}
    model = pb.ModelProto()
    for text, type_, score in zip(words.tokens, words.types, words.scores, strict=True):
        if type_ == 5:
            break  # padding
        text = text.replace(" ", "▁") if type_ == 4 else text
        model.pieces.add(piece=text, score=score if type_ == 1 else 0.0, type=kinds[type_])
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["added_tokens_decoder"] = {token["id"]: token for token in added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def prepare(name, folder):
    """Help the reference over what it stumbles on: its list of known vocabularies, missing files, class names."""
    words = read_vocabulary(folder, tiny_families.SIZE)
    if words.model == "llama":
        write_pieces(folder, words)
    if name.startswith("phi"):
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))
    return words.pre


def convert(tree, folder, pre, type_, *, no_mtp):
    from conversion.base import TextModel  # noqa: PLC0415

    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre  # it knows real vocabularies by their digests
    target = folder / f"reference-{type_}.gguf"
    sys.argv = ["convert", str(folder), "--outfile", str(target), "--outtype", type_, *(["--no-mtp"] * no_mtp)]
    runpy.run_path(str(tree / "convert_hf_to_gguf.py"), run_name="__main__")
    return target


def convert_lora(tree, base, adapter):
    target = adapter / "reference.gguf"
    sys.argv = ["convert", "--base", str(base), "--outfile", str(target), "--outtype", "f32", str(adapter)]
    runpy.run_path(str(tree / "convert_lora_to_gguf.py"), run_name="__main__")
    return target


def main():
    tree = Path(sys.argv[1])
    sys.path.insert(0, str(tree))
    logging.disable(logging.WARNING)
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for name in tiny_families.FAMILIES:
            folder = tiny_families.save(name, Path(place, name))
            pre = prepare(name, folder)
            if name in tiny_families.WITH_LORA:
                adapter = tiny_families.save_adapter(folder, folder / "lora")
                found[f"{name} lora"] = summary(convert_lora(tree, folder, adapter))
            types = TYPES if name in tiny_families.ALL_TYPES else TYPES[:1]
            for type_ in types:
                path = convert(tree, folder, pre, type_, no_mtp=name.startswith("qwen3.5"))
                found[f"{name} {type_}"] = summary(path)
            print(name, len(found[f"{name} f16"]["tensors"]), file=sys.stderr)
    PLACE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
