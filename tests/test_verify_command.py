import json

import pytest
import tiny_families

from backpropagate.cli import app
from backpropagate.failures import exit_code_of
from bp_core.config import ExportConfig
from bp_export import export


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
