import json
import shlex
import shutil

import pytest
import tiny_families

from backpropagate.cli.app import app
from backpropagate.cli.exit_codes import exit_code_of
from backpropagate.models.locate import fingerprint
from bp_core.errors import BadValue
from bp_core.folders import write_json
from bp_export import export
from bp_export.config import ExportConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, an adapter on it, and what was exported of them."""
    place = tmp_path_factory.mktemp("verify")
    base = tiny_families.save("smollm2", place / "base")
    adapter = tiny_families.save_adapter(base, place / "lora")
    export(adapter, base, ExportConfig(quantization="f16"))
    return place


def verify(capsys, *words):
    code = exit_code_of(app, ["verify", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_file_is_proven_against_what_it_was_made_of(place, capsys):
    code, found = verify(capsys, place / "base-f16.gguf", "--adapter", place / "lora")
    assert (code, found["proven"], found["compared_with"]) == (0, True, "model")
    code, found = verify(capsys, place / "base-f16.gguf", "--adapter", place / "lora", "--base", place / "base")
    assert (code, found["proven"]) == (0, True)


def test_what_it_is_not_is_noticed(place, capsys):
    code, found = verify(capsys, place / "base-f16.gguf", "--base", place / "base")
    failed = [check["name"] for check in found["checks"] if not check["passed"]]
    assert (code, found["proven"]) == (2, False)
    assert {"weights in the file", "f16 divergence"} <= set(failed)


def test_alone_a_file_is_checked_in_itself(place, capsys):
    code, found = verify(capsys, place / "base-f16.gguf")
    assert (code, found["compared_with"]) == (0, "nothing")
    assert [check["name"] for check in found["checks"]][-1] == "as it was proven"


def test_another_base_than_it_was_trained_on_is_refused(place, tmp_path, capsys):
    lora = shutil.copytree(place / "lora", tmp_path / "lora")
    write_json(lora / "run.json", {"base_fingerprint": fingerprint(place / "base")})
    words = ["export", str(lora), "--format", "gguf-lora"]
    assert exit_code_of(app, words) == 0
    write_json(lora / "run.json", {"base_fingerprint": "another"})
    capsys.readouterr()
    for again in ([*words, "--overwrite"], ["verify", str(place / "base-f16.gguf"), "--adapter", str(lora)]):
        assert exit_code_of(app, again) == 1
        assert "not the model it was trained on" in capsys.readouterr().err


def test_an_unknown_format_names_the_nearest(place, capsys):
    assert exit_code_of(app, ["export", str(place / "lora"), "--quantization", "q4km"]) == 1
    said = capsys.readouterr().err
    assert "Did you mean 'q4_k_m'?" in said and "Value error" not in said
    with pytest.raises(BadValue, match="did you mean q5_k_m"):
        ExportConfig(quantization="q5_km")


def test_a_refused_export_says_which_checks_failed_and_the_command_that_accepts_it(
    place, tmp_path, capsys, monkeypatch
):
    lora = shutil.copytree(place / "lora", tmp_path / "lo ra")
    words = ["export", str(lora), "--quantization", "q8_0", "--base", str(place / "base"), "--output", str(tmp_path)]
    monkeypatch.setattr("bp_export.proof.prover.FLOAT_KL", 1e-12)
    assert exit_code_of(app, words) == 2
    said = capsys.readouterr().err
    assert "✗ f16 divergence: " in said and "allowed 1e-12" in said and "× the limit" in said
    assert (tmp_path / "base-q8_0.unproven.gguf").is_file() and not (tmp_path / "base-q8_0.gguf").exists()
    line = next(line for line in said.splitlines() if "The command: " in line).partition("The command: ")[2]
    again = shlex.split(line)
    again = again[again.index("backprop") + 1 :]
    assert exit_code_of(app, again) == 0, "the command works as it stands"
    assert "Not proven, handed over as you asked" in capsys.readouterr().out
    report = json.loads((tmp_path / "base-q8_0.parity.json").read_text(encoding="utf-8"))
    assert (report["proven"], report["accepted"]) == (False, True)
    assert exit_code_of(app, ["push", str(tmp_path / "base-q8_0.gguf"), "--repo", "me/it", "--dry-run", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)["card"]
    assert "Not proven to be the model that was trained" in card and "f16 divergence" in card


def test_a_refused_file_says_what_to_send(place, capsys):
    assert exit_code_of(app, ["verify", str(place / "base-f16.gguf"), "--base", str(place / "base")]) == 2
    said = capsys.readouterr().err
    assert "✗ weights in the file: " in said and "backprop verify --json" in said


def test_rows_with_tools_are_asked_through_llama_server(place, capsys, tmp_path):
    function = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    asked = {"role": "user", "content": "Add 1."}
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}
    said = {"role": "assistant", "content": "Hi."}
    rows = [
        {"tools": [{"type": "function", "function": function}], "messages": [asked, turn]} for turn in (called, said)
    ]
    data, plain = tmp_path / "rows.jsonl", tmp_path / "plain.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, found = verify(capsys, place / "base-f16.gguf", "--data", data)
    shares = {check["name"]: check["measured"] for check in found["checks"] if "llama-server" in check["name"]}
    assert code == 0 and shares["llama-server: right arguments"].endswith(" of 1")
    assert shares["llama-server: no call where none is due"].endswith(" of 1")
    plain.write_text(json.dumps({"messages": [asked, said]}) + "\n", encoding="utf-8")
    assert exit_code_of(app, ["verify", str(place / "base-f16.gguf"), "--data", str(plain)]) == 1
    assert "no row has tools" in capsys.readouterr().err
    assert exit_code_of(app, ["verify", str(place / "base-f16.gguf"), "--ollama-name", "x"]) == 1
    assert "none are given" in capsys.readouterr().err
