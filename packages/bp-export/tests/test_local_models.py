import hashlib
import json

import pytest

from bp_core.errors import ModelNotFound, UnsupportedArchitecture
from bp_export.ollama.local_models import installed, model_file

MODEL, TEMPLATE = "application/vnd.ollama.image.model", "application/vnd.ollama.image.template"
ADAPTER = "application/vnd.ollama.image.adapter"


def pulled(folder, place, *layers):
    """What `ollama pull` leaves: a manifest, and a blob for each layer."""
    listed = []
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for kind, content in layers:
        digest = hashlib.sha256(content).hexdigest()
        (folder / "blobs" / f"sha256-{digest}").write_bytes(content)
        listed.append({"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)})
    manifest = folder / "manifests" / place
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": listed}), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    pulled(tmp_path, "registry.ollama.ai/library/gemma3/270m", (MODEL, b"GGUF a"), (TEMPLATE, b"{{ .Prompt }}"))
    pulled(tmp_path, "registry.ollama.ai/library/smollm2/latest", (MODEL, b"GGUF b"))
    pulled(tmp_path, "registry.ollama.ai/mario/bakery/v2", (MODEL, b"GGUF c"))
    pulled(tmp_path, "hf.co/owner/some-GGUF/Q4_K_M", (MODEL, b"GGUF d"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gemma3:270m", b"GGUF a"),
        ("smollm2", b"GGUF b"),
        ("mario/bakery:v2", b"GGUF c"),
        ("hf.co/owner/some-GGUF:Q4_K_M", b"GGUF d"),
        ("registry.ollama.ai/library/gemma3:270m", b"GGUF a"),
    ],
)
def test_a_name_leads_to_its_weights(name, content, folder):
    assert model_file(name, folder).read_bytes() == content


def test_all_names_are_those_that_ollama_lists(folder):
    assert installed(folder) == [
        "gemma3:270m",
        "hf.co/owner/some-GGUF:Q4_K_M",
        "mario/bakery:v2",
        "smollm2:latest",
    ]


def test_the_folder_is_the_one_of_the_environment(folder, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    assert model_file("smollm2").read_bytes() == b"GGUF b"


def test_an_unknown_name_is_answered_with_the_near_one(folder, tmp_path):
    with pytest.raises(ModelNotFound, match="did you mean ollama:gemma3:270m"):
        model_file("gemma3:270", folder)
    for name in ("../../etc", "a/b/c/d", "", "gemma3:"):
        with pytest.raises(ModelNotFound):
            model_file(name, folder)
    with pytest.raises(ModelNotFound) as caught:
        model_file("gemma3", tmp_path / "nowhere")
    assert "OLLAMA_MODELS" in caught.value.fix


def test_what_is_not_one_gguf_is_refused(folder):
    pulled(folder, "registry.ollama.ai/library/tuned/latest", (MODEL, b"GGUF e"), (ADAPTER, b"GGUF f"))
    with pytest.raises(UnsupportedArchitecture, match="a base with an adapter"):
        model_file("tuned", folder)
    pulled(folder, "registry.ollama.ai/library/parts/latest", (MODEL, b"GGUF g"), (MODEL, b"GGUF h"))
    with pytest.raises(UnsupportedArchitecture, match="2 files of weights"):
        model_file("parts", folder)


def test_weights_that_are_gone_are_pulled_again(folder):
    model_file("smollm2", folder).unlink()
    with pytest.raises(ModelNotFound, match="ollama pull smollm2"):
        model_file("smollm2", folder)
