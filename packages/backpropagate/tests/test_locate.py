"""Models by name: near misses, licences, what is untested."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import tiny_families

from backpropagate.models import locate
from backpropagate.models.targets import Artifact
from bp_core.errors import FileMissing, ModelNotFound
from bp_core.model_files import read_json
from bp_export.gguf.convert import Converter
from bp_export.gguf.vocabulary import read
from bp_export.quantization.quantize import quantize
from bp_export.weights.merge import open_base
from bp_plan.presets import PRESETS


@pytest.mark.parametrize(
    ("name", "near"), [("qwen2.5-7", "qwen2.5-7b"), ("Mistral_7B", "mistral-7b"), ("smolm2-135m", "smollm2-135m")]
)
def test_a_misspelt_preset_is_answered_with_the_near_one(name, near):
    with pytest.raises(ModelNotFound, match=f"did you mean '{near}'"):
        locate.locate(name, lambda progress: None)


def test_a_licence_that_restricts_is_told_by_preset_and_by_hub_id():
    for name in ("qwen2.5-3b", "Qwen/Qwen2.5-3B-Instruct"):
        (remark,) = locate.remarks(name, PRESETS["qwen2.5-3b"].config)
        assert "no commercial use" in remark
    assert locate.remarks("qwen2.5-7b", PRESETS["qwen2.5-7b"].config) == []


def test_other_models_are_called_untested():
    (remark,) = locate.remarks("somebody/some-llama", PRESETS["llama-3.1-8b"].config)
    assert "somebody/some-llama is untested" in remark
    (remark,) = locate.remarks("/a/folder", {"model_type": "mamba"})
    assert "mamba" in remark and "untested" in remark
    assert locate.remarks("/a/folder", PRESETS["llama-3.1-8b"].config) == []


FIND = """
import sys
from backpropagate.models import locate
from bp_core.errors import BackpropagateError
try:
    name = sys.argv[1]
    print(locate.locate(name, lambda progress: None).name, locate.hub_id(name), locate.shape(name)[1])
except BackpropagateError as error:
    print(error.code, error.fix)
"""


@pytest.fixture
def find(tmp_path):
    """Locate a model without a network, with two revisions of owner/name in the hub's cache."""
    place = tmp_path / "hub" / "models--owner--name"
    (place / "refs" / "feature").mkdir(parents=True)
    for commit, refs in (("a" * 40, ["main"]), ("b" * 40, ["v1", "feature/x"])):
        (place / "snapshots" / commit).mkdir(parents=True)
        (place / "snapshots" / commit / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        for ref in refs:
            (place / "refs" / ref).write_text(commit, encoding="utf-8")

    def run(name):
        variables = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
        variables |= {"BACKPROPAGATE_HOME": str(tmp_path / "home")}
        words = [sys.executable, "-c", FIND, name]
        done = subprocess.run(words, env=variables, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.mark.parametrize(
    ("name", "commit"),
    [("owner/name", "a"), ("owner/name@v1", "b"), ("owner/name@feature/x", "b"), (f"owner/name@{'b' * 40}", "b")],
)
def test_a_revision_is_named_after_an_at_sign(find, name, commit):
    assert find(name) == f"{commit * 40} owner/name owner/name"


@pytest.mark.parametrize("name", ["owner/name@", "owner/name@a b", "owner/name@/x", "@v1"])
def test_what_is_no_revision_is_no_model(name):
    with pytest.raises(ModelNotFound):
        locate.locate(name, lambda progress: None)


def test_a_revision_that_is_not_here_is_told_where_there_is_no_network(find):
    assert find("owner/name@v2").startswith("DEP_HUB_UNREACHABLE")


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A small file of Gemma 3's kind; what is unpacked goes to a folder of the test."""
    monkeypatch.setenv("BACKPROPAGATE_HOME", str(tmp_path / "home"))
    base = tiny_families.save("gemma3", tmp_path / "gemma3")
    converter = Converter(open_base(base), base)
    converter.write(tmp_path / "small.gguf", read(base, converter.vocabulary_size), "small")
    return tmp_path / "small.gguf"


def test_a_gguf_is_unpacked_once(gguf, tmp_path):
    seen = []
    folder = locate.locate(str(gguf), seen.append)
    assert folder.parent == tmp_path / "home" / "models" and folder.name.startswith("small-")
    assert read_json(folder / "config.json")["architectures"] == ["Gemma3ForCausalLM"]
    assert seen and locate.locate(str(gguf), pytest.fail) == folder
    config, name, download = locate.shape(str(gguf))
    assert (config["model_type"], name, download) == ("gemma3_text", str(folder), None)
    assert not any("dequantised" in remark for remark in locate.remarks(name, config))


def test_what_was_quantised_is_called_so(gguf, tmp_path):
    quantize(gguf, tmp_path / "q.GGUF", "q4_k_m")
    folder = locate.locate(str(tmp_path / "q.GGUF"), lambda progress: None)
    assert folder.name.startswith("q-dequantized-")
    (remark,) = locate.remarks(str(folder), read_json(folder / "config.json"))
    assert "those of q.GGUF, dequantised from Q4_K, Q6_K" in remark


def test_a_model_of_ollama_is_found_by_its_name(gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    (tmp_path / "ollama" / "blobs").mkdir(parents=True)
    gguf.rename(tmp_path / "ollama" / "blobs" / f"sha256-{digest}")
    manifest = tmp_path / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "small" / "latest"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"layers": [layer]}), encoding="utf-8")
    folder = locate.locate("ollama:small", lambda progress: None)
    assert folder.name.startswith("small-") and (folder / "tokenizer.json").is_file()
    assert Artifact.find("ollama:small").gguf == tmp_path / "ollama" / "blobs" / f"sha256-{digest}"
    with pytest.raises(ModelNotFound, match="did you mean ollama:small:latest"):
        locate.locate("ollama:smal", lambda progress: None)


def test_a_gguf_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileMissing):
        locate.locate(str(tmp_path / "none.gguf"), lambda progress: None)
