"""What goes wrong because of the user: one of our errors with place and fix, exit 1, nothing written, no traceback."""

import json
import os
import shutil
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of

GOOD = json.dumps({"prompt": "Hi", "completion": "Hello."}) + "\n"


@pytest.fixture
def backprop(capsys):
    """Run the command line; its exit code and what it said on stderr."""

    def run(*arguments):
        code = exit_code_of(app, [str(word) for word in arguments])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said

    return run


def train(data, tiny_llama, output):
    return ["train", "--data", data, "--model", tiny_llama, "--output", output, "--backend", "cpu", "--steps", 1]


CONTENTS = {
    "INPUT_FILE_EMPTY": ("", "rows.jsonl"),
    "INPUT_JSON_BROKEN": (GOOD + '{"prompt": "a", "completion": \n', "rows.jsonl:2"),
    "INPUT_FORMAT_UNKNOWN": (GOOD + GOOD + '{"promt": "a", "completion": "b"}\n', "rows.jsonl:3"),
    "INPUT_METHOD_MISMATCH": (GOOD + '{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "rows.jsonl:2"),
    "INPUT_NO_TARGET": (GOOD + '{"messages": [{"role": "user", "content": "Anyone?"}]}\n', "rows.jsonl:2"),
    "INPUT_ROW_INVALID": ('{"messages": "hello"}\n', "rows.jsonl:1"),
}


@pytest.mark.parametrize("code", CONTENTS)
def test_bad_data_is_named_by_file_and_line(code, backprop, tiny_llama, tmp_path):
    content, where = CONTENTS[code]
    (tmp_path / "rows.jsonl").write_text(content)
    status, said = backprop(*train(tmp_path / "rows.jsonl", tiny_llama, tmp_path / "out"))
    assert status == 1 and code in said and where in said and "fix: " in said
    assert list((tmp_path / "out").rglob("*")) == []


def test_a_file_that_is_not_there(backprop, tiny_llama, tmp_path):
    status, said = backprop(*train(tmp_path / "nowhere.jsonl", tiny_llama, tmp_path / "out"))
    assert status == 1 and "INPUT_FILE_NOT_FOUND" in said and "nowhere.jsonl" in said


@pytest.mark.parametrize(
    ("mode", "found"), [("full", "only mode lora has"), ("lora", "compute capability 8.9 or more, and there is none")]
)
def test_float8_where_it_cannot_be_is_refused_before_anything_is_loaded(mode, found, backprop, rows, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    status, said = backprop(*train(rows, tmp_path / "model", tmp_path / "out"), "--fp8", "--mode", mode)
    assert status == 1 and found in said and list((tmp_path / "out").rglob("*")) == []


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "a/b/c"])
def test_an_unknown_model(name, backprop, rows, tmp_path):
    status, said = backprop(*train(rows, name, tmp_path / "out"))
    assert status == 1 and "INPUT_MODEL_NOT_FOUND" in said and "smollm2-135m" in said


def test_a_folder_without_a_model(backprop, rows, tmp_path):
    status, said = backprop(*train(rows, tmp_path, tmp_path / "out"))
    assert status == 1 and "INPUT_MODEL_NOT_FOUND" in said and "config.json" in said


def test_an_output_that_is_a_file(backprop, rows, tiny_llama, tmp_path):
    (tmp_path / "out").write_text("mine")
    status, said = backprop(*train(rows, tiny_llama, tmp_path / "out"))
    assert status == 1 and "INPUT_OUTPUT_UNUSABLE" in said
    assert (tmp_path / "out").read_text() == "mine"


@contextmanager
def readable_for_others(*folders):
    """What leads to these folders can be walked through by anybody; a checkout may lie where only its owner can."""
    places = {place for folder in folders for place in (folder, *folder.parents)}
    before = {place: mode for place in places if (mode := place.stat().st_mode) & 0o055 != 0o055}
    for place, mode in before.items():
        place.chmod(mode | 0o055)
    try:
        yield
    finally:
        for place, mode in before.items():
            place.chmod(mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows permissions work otherwise")
def test_an_output_without_write_permission(backprop, rows, tiny_llama, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    arguments = train(rows, tiny_llama, locked / "out")
    root = os.geteuid() == 0
    with readable_for_others(tmp_path, Path(sys.prefix), Path(sys.base_prefix)) if root else nullcontext():
        if root:  # root may write anywhere; be somebody else for a moment
            os.seteuid(65534)
        try:
            status, said = backprop(*arguments)
        finally:
            if root:
                os.seteuid(0)
    assert status == 1 and "INPUT_OUTPUT_UNUSABLE" in said and "ermission" in said
    assert list(locked.iterdir()) == []


def test_an_unknown_backend(backprop, rows, tiny_llama, tmp_path):
    status, said = backprop(*train(rows, tiny_llama, tmp_path / "out")[:-4], "--backend", "tpu")
    assert status == 1 and "CONFIG_BACKEND_UNKNOWN" in said and "cpu" in said


def test_values_out_of_range_are_named_together(backprop, rows, tiny_llama, tmp_path):
    status, said = backprop(*train(rows, tiny_llama, tmp_path / "out"), "--rank", 0, "--warmup-ratio", 2)
    assert status == 1 and "CONFIG_VALUE_INVALID" in said and "rank is 0" in said and "warmup_ratio is 2" in said


def test_an_unknown_option_or_quantization(backprop, tmp_path):
    status, said = backprop("train", "--data", "x", "--rnak", "3")
    assert status == 1 and "CONFIG_VALUE_INVALID" in said and "--rnak" in said
    status, said = backprop("export", tmp_path, "--quantization", "q4_k_x")
    assert status == 1 and "CONFIG_VALUE_INVALID" in said and "q4_k_m" in said


def test_an_adapter_that_is_not_there_or_damaged(backprop, tmp_path, tiny_llama):
    status, said = backprop("export", tmp_path)
    assert status == 1 and "INPUT_ADAPTER_UNUSABLE" in said
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_llama)}))
    status, said = backprop("export", tmp_path)
    assert status == 1 and "INPUT_ADAPTER_UNUSABLE" in said
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_config.json"]


def test_chatting_with_something_else(backprop, tmp_path):
    (tmp_path / "song.gguf").write_bytes(b"la la la")
    assert "INPUT_GGUF_UNUSABLE" in backprop("chat", tmp_path / "song.gguf", "--prompt", "Hi")[1]
    assert "INPUT_TARGET_NOT_FOUND" in backprop("chat", tmp_path / "nothing", "--prompt", "Hi")[1]
    assert "INPUT_ADAPTER_UNUSABLE" in backprop("chat", tmp_path, "--prompt", "Hi")[1]


def test_a_mistake_of_ours_is_said_to_be_one(capsys):
    def broken(**_):
        raise ZeroDivisionError("oops")

    assert exit_code_of(broken, []) == 2
    said = capsys.readouterr().err
    assert "mistake in Backpropagate" in said and "backprop info" in said and "Traceback" not in said


def test_settings_that_the_model_cannot_have_are_named_together(backprop, rows, tiny_llama, tmp_path):
    options = ["--target-modules", "q_proj,qproj,lm_head", "--rank", 300]
    status, said = backprop(*train(rows, tiny_llama, tmp_path / "out"), *options)
    said = " ".join(said.split())
    assert status == 1 and "CONFIG_VALUE_INVALID" in said
    for words in ("'qproj'", "down_proj, gate_proj", "the head", "rank is 300, but q_proj is 256 × 256"):
        assert words in said, words
    assert list((tmp_path / "out").rglob("*")) == []


def test_a_base_that_is_quantised_already(backprop, rows, tiny_llama, tmp_path):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (base / "config.json").write_text(json.dumps(config))
    status, said = backprop(*train(rows, base, tmp_path / "out"))
    said = " ".join(said.split())
    assert status == 1 and "INPUT_MODEL_UNUSABLE" in said and "gptq" in said and "--mode qlora" in said
    assert list((tmp_path / "out").rglob("*")) == []


def test_pissa_needs_a_rank_that_every_layer_has(backprop, rows, tiny_llama, tmp_path):
    status, said = backprop(*train(rows, tiny_llama, tmp_path / "out"), "--init", "pissa", "--rank", 200)
    assert status == 1 and "k_proj is 128" in " ".join(said.split())


def test_what_this_machine_cannot_do_is_refused_before_anything_is_loaded(backprop, rows, tmp_path):
    status, said = backprop(*train(rows, "owner/not-downloaded", tmp_path / "out"), "--optimizer", "paged-adamw-8bit")
    said = " ".join(said.split())
    assert status == 1 and "CONFIG_VALUE_INVALID" in said and "for a card, and there is none: use adamw-8bit" in said
    assert list((tmp_path / "out").rglob("*")) == []
