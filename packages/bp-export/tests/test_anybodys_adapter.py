"""Adapters of other programs: merged, they compute what PEFT computes; what cannot be right is refused by name."""

import json
import shutil

import numpy as np
import pytest
import tiny_families
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from bp_core import folders
from bp_core.adapter_config import CONFIG, WEIGHTS
from bp_core.contract import Contract
from bp_core.errors import AdapterUnusable, ModelUnusable, OutputUnusable
from bp_core.examples import Sample
from bp_export import Engine, export, gguf_facts, write_merged
from bp_export.config import ExportConfig
from bp_export.gguf.convert import Converter
from bp_export.gguf.vocabulary import read as read_vocabulary
from bp_export.model_folder import eos_ids
from bp_export.proof.folder_check import check_folder
from bp_export.trained_tokenizer import trained_tokenizer
from bp_export.weights.merge import trained_weights

TOKENS = [5, 77, 300, 12, 801, 44, 9, 650, 33, 2]
ATTENTION = ["q_proj", "v_proj"]
FAMILY_OF = {"untied": "qwen2.5-untied", "tied": "llama32", "gemma": "gemma3"}
KINDS = {
    "lora": dict(target_modules=ATTENTION),
    "trained head": dict(target_modules=ATTENTION, modules_to_save=["lm_head"]),
    "trained embedding": dict(target_modules=ATTENTION, modules_to_save=["embed_tokens"]),
    "both trained": dict(target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]),
    "trained as one": dict(target_modules=ATTENTION, modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "LoRA on the head": dict(target_modules=[*ATTENTION, "lm_head"]),
    "LoRA on the embedding": dict(target_modules=[*ATTENTION, "embed_tokens"]),
    "LoRA on both": dict(target_modules=[*ATTENTION, "embed_tokens", "lm_head"]),
    "LoRA on both as one": dict(target_modules=[*ATTENTION, "embed_tokens"], ensure_weight_tying=True),
    "token rows": dict(target_modules=ATTENTION, trainable_token_indices=[7, 300, 801]),
    "biases": dict(target_modules=ATTENTION, bias="all"),
}
RESIZED = {
    "resized": dict(target_modules=ATTENTION),
    "resized, trained": dict(target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]),
    "resized, token rows": dict(target_modules=ATTENTION, trainable_token_indices=[7, 1024, 1026]),
    "resized, LoRA on both": dict(target_modules=[*ATTENTION, "embed_tokens", "lm_head"]),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    place = tmp_path_factory.mktemp("bases")
    return {kind: tiny_families.save(family, place / kind) for kind, family in FAMILY_OF.items()}


def adapted(base, folder, rows=None, **options):
    """An adapter by PEFT with everything in it moved, and the logits of the model that PEFT opens it with."""
    torch.manual_seed(3)
    model = opened(base, rows)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **options))
    with torch.no_grad():
        for value in peft.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.05)
    peft.save_pretrained(folder)
    return folder, logits(PeftModel.from_pretrained(opened(base, rows), folder))


def opened(base, rows=None):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([TOKENS])).logits[0].numpy()


@pytest.fixture
def right(helpers, tmp_path):
    """Compare the merged folder and, where wanted, the f16 GGUF with what PEFT computes."""

    def check(adapter, base, truth, gguf=True):
        out = tmp_path / "out"
        write_merged(adapter, base, out)
        merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        assert helpers.mean_kl(truth, logits(merged)) <= 1e-5
        if gguf:
            file = written(adapter, base, tmp_path / "f16.gguf")
            with Engine(file, context=64, gpu=False) as engine:
                assert helpers.mean_kl(truth, engine.logits(TOKENS)) <= 1e-4
        shutil.rmtree(out)

    return check


def written(adapter, base, target):
    converter = Converter(trained_weights(adapter, base), base)
    converter.write(target, read_vocabulary(base, converter.vocabulary_size), "m")
    return target


def in_float32(base, folder):
    """A copy of a base in float32, so that merged weights are not rounded."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.float() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for settings in (config, config.get("text_config", {})):
        settings.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def wide(bases, tmp_path_factory):
    place = tmp_path_factory.mktemp("wide")
    return {kind: in_float32(base, place / kind) for kind, base in bases.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("base", "kind"),
    [
        *(("tied", kind) for kind in KINDS if kind != "biases"),
        *(("untied", kind) for kind in ("both trained", "LoRA on both", "token rows", "biases")),
        *(("gemma", kind) for kind in ("trained embedding", "LoRA on the embedding")),
    ],
)
def test_heads_embeddings_rows_and_biases(kind, base, wide, right, tmp_path):
    adapter, truth = adapted(wide[base], tmp_path / "lora", **KINDS[kind])
    right(adapter, wide[base], truth)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("rows", "kind"), [*((1088, kind) for kind in RESIZED), (1027, "resized, LoRA on both"), (1000, "resized, trained")]
)
def test_a_vocabulary_that_was_resized(kind, rows, wide, right, tmp_path):
    base = wide["tied" if rows == 1088 else "untied"]
    adapter, truth = adapted(base, tmp_path / "lora", rows, **RESIZED[kind])
    right(adapter, base, truth, gguf=rows == 1088)
    write_merged(adapter, base, tmp_path / "m")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").config.vocab_size == rows


@pytest.fixture
def plain(wide, tmp_path):
    return adapted(wide["untied"], tmp_path / "lora", target_modules=ATTENTION)


def rename(folder, change):
    tensors = load_file(folder / WEIGHTS)
    save_file({change(name): value for name, value in tensors.items()}, folder / WEIGHTS)


NAMES = {
    "torch.compile": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "compiled layers": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "vision-language": lambda name: name.replace("model.layers", "model.language_model.layers"),
    "older vision-language": lambda name: name.replace("model.layers", "language_model.model.layers"),
    "FSDP": lambda name: name.replace(".model.layers.", ".model._fsdp_wrapped_module.layers."),
    "data parallel": lambda name: f"module.{name}",
    "raw state dict": lambda name: name.replace(".weight", ".default.weight"),
    "no prefix": lambda name: name.removeprefix("base_model.model."),
}


def test_names_of_other_programs_are_mapped(plain, wide):
    adapter, base = plain[0], wide["untied"]
    changed = [f"model.layers.{layer}.self_attn.{module}.weight" for layer in (0, 1) for module in ATTENTION]
    known, whole = trained_weights(adapter, base), (adapter / WEIGHTS).read_bytes()
    for kind, change in NAMES.items():
        (adapter / WEIGHTS).write_bytes(whole)
        rename(adapter, change)
        merged = trained_weights(adapter, base)
        for name in changed:
            assert merged.changes(name), kind
            assert np.array_equal(merged.array(name), known.array(name)), kind


def test_pickled_weights_and_those_of_mlx_lm(plain, wide, right, tmp_path):
    adapter, truth = plain
    tensors = load_file(adapter / WEIGHTS)
    (adapter / WEIGHTS).unlink()
    transposed = {name: value.T.contiguous().T for name, value in tensors.items()}  # strides of their own
    torch.save(transposed, adapter / "adapter_model.bin")
    right(adapter, wide["untied"], truth, gguf=False)
    torch.save({"a": torch.zeros(2, 2), "b": tiny_families.Tiny}, adapter / "adapter_model.bin")
    with pytest.raises(AdapterUnusable, match=r"tiny_families\.Tiny"):
        write_merged(adapter, wide["untied"], tmp_path / "no")
    mlx = tmp_path / "mlx"
    mlx.mkdir()
    settings = {"fine_tune_type": "lora", "model": "x", "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0}}
    (mlx / CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    named = {}
    for name, value in tensors.items():
        module, part = name.removeprefix("base_model.model.").rsplit(".lora_", 1)
        named[f"{module}.lora_{part[0].lower()}"] = value.T.contiguous()
    save_file(named, mlx / "adapters.safetensors")
    right(mlx, wide["untied"], truth, gguf=False)


def without(folder, part):
    tensors = load_file(folder / WEIGHTS)
    save_file({name: value for name, value in tensors.items() if part not in name}, folder / WEIGHTS)


@pytest.mark.parametrize("lost", ["layers.1.", "v_proj"])
def test_an_adapter_with_half_of_its_tensors_is_refused_by_name(lost, plain, wide, tmp_path):
    without(plain[0], lost)
    with pytest.raises(AdapterUnusable, match=f"no weights for.*{lost}"):
        write_merged(plain[0], wide["untied"], tmp_path / "m")


def test_layers_that_were_not_to_be_trained_are_not_missed(wide, right, tmp_path):
    base = wide["untied"]
    options = dict(target_modules=ATTENTION, layers_to_transform=[1], rank_pattern={"v_proj": 2})
    adapter, truth = adapted(base, tmp_path / "lora", **options)
    right(adapter, base, truth, gguf=False)
    adapter, truth = adapted(base, tmp_path / "l2", target_modules=r".*layers\.0\..*(q_proj|gate_proj)")
    right(adapter, base, truth, gguf=False)


def test_files_that_are_not_whole_say_what_they_are(plain, wide, tmp_path):
    adapter, base = plain[0], wide["untied"]
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AdapterUnusable, match="truncated"):
        write_merged(adapter, base, tmp_path / "m")
    (adapter / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", encoding="utf-8")
    with pytest.raises(AdapterUnusable, match="Git LFS pointer") as caught:
        write_merged(adapter, base, tmp_path / "m")
    assert caught.value.fix == f"Fetch the weights: git -C {adapter} lfs pull"
    (adapter / WEIGHTS).write_bytes(whole)
    (adapter / WEIGHTS).rename(adapter / "gone")
    shutil.copytree(adapter, adapter / "checkpoint-9")
    (adapter / "checkpoint-9" / "gone").rename(adapter / "checkpoint-9" / WEIGHTS)
    with pytest.raises(AdapterUnusable) as caught:
        write_merged(adapter, base, tmp_path / "m")
    assert str(adapter / "checkpoint-9") in caught.value.fix


def test_a_base_with_nan_is_refused_in_every_format(plain, bases, tmp_path):
    base = shutil.copytree(bases["untied"], tmp_path / "nan")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = np.nan
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    for write in (
        lambda: write_merged(plain[0], base, tmp_path / "m"),
        lambda: written(plain[0], base, tmp_path / "g"),
    ):
        with pytest.raises(ModelUnusable, match=r"layers\.1\.mlp\.up_proj.*not finite"):
            write()
    assert not (tmp_path / "m").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_base_that_says_tied_and_has_another_head(bases, right, tmp_path):
    base = in_float32(bases["tied"], tmp_path / "b")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = torch.randn_like(tensors["model.embed_tokens.weight"]) * 0.05
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    adapter, truth = adapted(base, tmp_path / "lora", target_modules=[*ATTENTION, "lm_head"])
    right(adapter, base, truth)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["gemma3", "smollm3"])
def test_the_class_decides_where_the_config_does_not_say_tied(family, right, tmp_path):
    base = in_float32(tiny_families.save(family, tmp_path / "s"), tmp_path / "b")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    del config["tie_word_embeddings"]
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    adapter, truth = adapted(base, tmp_path / "lora", target_modules=ATTENTION, modules_to_save=["embed_tokens"])
    right(adapter, base, truth)


TURNS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}<|done|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def foreign(plain):
    """An adapter with a tokenizer of its own, as TRL saves it: another template, eos and a new token; no contract."""
    adapter = plain[0]
    tiny_families.save_tokenizer("qwen2", adapter)
    tokenizer = Tokenizer.from_file(str(adapter / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|done|>"])
    tokenizer.add_tokens(["<|new1|>"])
    tokenizer.save(str(adapter / "tokenizer.json"))
    settings = json.loads((adapter / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"eos_token": "</s>"}
    del settings["chat_template"]
    (adapter / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (adapter / "chat_template.jinja").write_text(TURNS, encoding="utf-8")
    return adapter, tokenizer


def test_tokenizer_template_and_ends_of_a_foreign_adapter_travel(foreign, wide, tmp_path):
    (adapter, tokenizer), base = foreign, wide["untied"]
    done, eos = tokenizer.token_to_id("<|done|>"), tokenizer.token_to_id("</s>")
    out = export(adapter, base, ExportConfig(quantization="f16", output=str(tmp_path / "m.gguf")))
    facts = gguf_facts(out.path)
    assert (facts.template, facts.eos) == (TURNS, done)
    with Engine(out.path, context=64, gpu=False) as engine:
        assert engine.tokenize("<|new1|>") == [tokenizer.token_to_id("<|new1|>")]
    assert out.origins == {
        "tokenizer": "the adapter",
        "chat template": "the adapter",
        "end of turn": "the chat template",
    }
    merged = export(adapter, base, ExportConfig(format="merged", output=str(tmp_path / "m"))).path
    written = AutoTokenizer.from_pretrained(merged)
    assert (written.chat_template, written.eos_token) == (TURNS, "</s>")
    assert written.convert_tokens_to_ids("<|new1|>") == tokenizer.token_to_id("<|new1|>")
    for name in ("generation_config.json", "config.json"):
        assert eos_ids(merged / name)[:2] == [done, eos]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).unlink()
    part = trained_tokenizer(adapter, base)
    assert part.contract.template == TURNS and part.origins["tokenizer"] == "the base"
    (adapter / "chat_template.jinja").unlink()
    assert trained_tokenizer(adapter, base).folder == base


@pytest.fixture
def endless_base(wide, tmp_path):
    """A base without a chat template, whose own files name an end that was not trained."""
    base = shutil.copytree(wide["untied"], tmp_path / "base")
    settings = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["chat_template"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "</s>"}), encoding="utf-8")
    for name in ("config.json", "generation_config.json"):
        values = json.loads((base / name).read_text(encoding="utf-8"))
        (base / name).write_text(json.dumps(values | {"eos_token_id": 2}), encoding="utf-8")
    return base


@pytest.mark.parametrize("format", ["merged", "lora"])
def test_every_folder_that_leaves_stops_where_training_ended_turns(format, endless_base, tmp_path, helpers):
    base, template = endless_base, tiny_families.TEMPLATE
    adapter, _ = adapted(base, tmp_path / "lora", target_modules=ATTENTION, modules_to_save=["lm_head"])
    tensors = load_file(adapter / WEIGHTS)
    state = opened(base).model(torch.tensor([TOKENS])).last_hidden_state[0, -1].detach()
    head = torch.zeros_like(tensors["base_model.model.lm_head.weight"])
    head[4] = state  # it answers with the end of a turn at once
    save_file(tensors | {"base_model.model.lm_head.weight": head}, adapter / WEIGHTS)
    contract = Contract(template, "none", (4,), ("<|im_end|>",))
    (adapter / "contract.json").write_text(json.dumps(contract.as_dict()), encoding="utf-8")
    given = dict(reference=helpers.Reference(base, adapter), samples=[Sample("x", (*TOKENS,), (1,) * 10, (*TOKENS,))])
    done = export(adapter, base, ExportConfig(format=format, output=str(tmp_path / "m")), **given)
    written = AutoTokenizer.from_pretrained(done.path)
    assert (written.chat_template, written.eos_token) == (template, "<|im_end|>")
    if format == "lora":
        return
    assert [eos_ids(done.path / name) for name in ("generation_config.json", "config.json")] == [[4, 2]] * 2
    assert {c.name: c.measured for c in done.parity.checks}["answers end"] == 1
    model = AutoModelForCausalLM.from_pretrained(done.path)
    assert model.generate(torch.tensor([TOKENS]), max_new_tokens=20, do_sample=False)[0].tolist() == [*TOKENS, 4]
    whole = export(None, done.path, ExportConfig(format="merged", output=str(tmp_path / "copy")), **given)
    assert whole.parity.proven and {c.name: c.measured for c in whole.parity.checks}["answers end"] == 1
    for name in ("generation_config.json", "config.json"):
        (whole.path / name).write_bytes((base / name).read_bytes())
    parity = check_folder(whole.path, contract, *given.values(), None)
    assert [check.name for check in parity.failures] == ["end of turn", "answers end"]


def test_overwriting_replaces_what_an_export_wrote_and_nothing_else(plain, wide, tmp_path):
    adapter, base = plain[0], wide["untied"]
    config = ExportConfig(format="merged", output=str(tmp_path / "m"), overwrite=True)
    out = export(adapter, base, config).path
    (out / "evals").mkdir()
    (out / "evals" / "run.csv").write_text("mine", encoding="utf-8")
    (out / "NOTES.md").write_text("mine", encoding="utf-8")
    export(adapter, base, config)
    assert (out / "NOTES.md").read_text(encoding="utf-8") == (out / "evals" / "run.csv").read_text("utf-8") == "mine"
    assert folders.damage(out) is None and [p.name for p in tmp_path.iterdir() if p.name.startswith(".m")] == []
    (out / "LICENSE").write_text("mine", encoding="utf-8")
    licensed = shutil.copytree(base, tmp_path / "licensed")
    (licensed / "LICENSE").write_text("theirs", encoding="utf-8")
    with pytest.raises(OutputUnusable, match="LICENSE is no file of an earlier export"):
        export(adapter, licensed, config)
    assert (out / "LICENSE").read_text(encoding="utf-8") == "mine"


def test_a_gguf_that_no_export_wrote_is_not_replaced(plain, wide, tmp_path):
    adapter, base, mine = plain[0], wide["untied"], tmp_path / "m.gguf"
    config = ExportConfig(format="gguf-lora", output=str(mine), overwrite=True)
    export(adapter, base, config)
    export(adapter, base, config)
    mine.write_bytes(b"GGUF, but mine")
    with pytest.raises(OutputUnusable, match="no export wrote this file"):
        export(adapter, base, config)
    assert mine.read_bytes() == b"GGUF, but mine"
    folders.write_manifest(adapter)
    with pytest.raises(OutputUnusable, match="what is exported lies here"):
        export(adapter, base, ExportConfig(format="merged", output=str(adapter), overwrite=True))
