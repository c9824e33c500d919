"""Adapters that other programs trained, from the command line: exported, talked to, and refused by name."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from bp_export.model_folder import eos_ids

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_llama):
    """A TRL-like folder: PEFT's files and the tokenizer's, with another eos and no contract."""
    folder = tmp_path_factory.mktemp("trl") / "out"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, value in peft.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn_like(value) * 0.3)
    peft.save_pretrained(folder)
    shutil.copyfile(tiny_llama / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((tiny_llama / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture
def adapter(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "lora")


def run(words):
    return exit_code_of(app, words)


def say(name, *, base):
    config = json.loads((name / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    (name / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def rename(folder, old, new):
    tensors = load_file(folder / WEIGHTS)
    save_file({name.replace(old, new): value for name, value in tensors.items()}, folder / WEIGHTS)


@pytest.mark.parametrize("base", ["unsloth/some-model-bnb-4bit", "/content/models/x", None, ""])
def test_naming_the_base_suffices(base, adapter, tiny_llama, tmp_path, capsys):
    say(adapter, base=base)
    out = tmp_path / "m"
    command = ["export", str(adapter), "--format", "merged", "--output", str(out)]
    assert run([*command, "--base", str(tiny_llama)]) == 0
    assert eos_ids(out / "generation_config.json")[0] == 2  # <|im_end|>, which the template writes
    capsys.readouterr()
    if "unsloth" not in str(base):  # which would ask the hub
        assert run(command) == 1
        assert "--base" in capsys.readouterr().err


def test_reading_commands_take_the_base_too(adapter, tiny_llama, tmp_path, capsys):
    def told(words):
        code = run(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo."}]}\n')
    commands = [
        ["chat", str(adapter), "--prompt", "Hi", "--max-tokens", "4"],
        ["eval", str(adapter), "--data", str(rows), "--answers", "0", "--json"],
        ["compare", str(adapter), "--prompt", "Hi", "--max-tokens", "4", "--json"],
    ]
    say(adapter, base=str(tiny_llama))
    known = [told(words)[1] for words in commands]
    assert all(known)
    say(adapter, base="/content/models/x")
    for words, answer in zip(commands, known, strict=True):
        code, _, err = told(words)
        assert code == 1
        assert "Name the base with --base" in err
        assert told([*words, "--base", str(tiny_llama)])[:2] == (0, answer)
    for words in (commands[0], ["export", str(adapter)]):
        code, _, err = told([words[0], str(tiny_llama), *words[2:], "--base", str(tiny_llama)])
        assert code == 1
        assert "Leave --base out." in err


def test_it_is_proven_and_answers_as_itself_under_other_names(adapter, tiny_llama, tmp_path, capsys):
    def answer(name):
        assert run(["chat", str(name), "--prompt", "Hi", "--max-tokens", "8"]) == 0
        return capsys.readouterr().out

    known, base = answer(adapter), answer(tiny_llama)
    assert known != base
    rename(adapter, "base_model.model.", "base_model.model._orig_mod.")
    assert answer(adapter) == known
    file = tmp_path / "m.gguf"
    assert run(["export", str(adapter), "--quantization", "F16", "--output", str(file)]) == 0
    report = json.loads(file.with_suffix(".parity.json").read_text(encoding="utf-8"))
    assert report["proven"] and report["compared_with"] == "model"
    assert not [check for check in report["checks"] if check["name"] == "training tokens"]
    tensors = load_file(adapter / WEIGHTS)
    save_file({name: value for name, value in tensors.items() if "layers.1" not in name}, adapter / WEIGHTS)
    for command in (["chat", str(adapter), "--prompt", "Hi"], ["export", str(adapter), "--overwrite"]):
        assert run(command) == 1
        assert "model.layers.1.self_attn.q_proj" in capsys.readouterr().err


def test_folders_that_are_not_whole_are_told_with_what_to_do(adapter, tmp_path, capsys):
    outer = tmp_path / "trl"
    for step in (10, 9):
        shutil.copytree(adapter, outer / f"checkpoint-{step}")
    assert run(["export", str(outer)]) == 1
    assert "checkpoint-10" in capsys.readouterr().err
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:1000])
    assert run(["chat", str(adapter), "--prompt", "Hi"]) == 1
    assert "truncated" in capsys.readouterr().err
