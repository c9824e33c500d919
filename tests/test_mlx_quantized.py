"""A base that MLX quantised: trained on as it is, exported as what it computes with, or onto its 16-bit source."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="there is no MLX for this machine")

import mlx.core as mx
from mlx_lm.convert import convert
from safetensors.numpy import load_file, save_file

from backpropagate import Trainer
from backpropagate.models.targets import Artifact
from bp_core.backends import find
from bp_core.errors import AdapterUnusable, BadValue, ModelUnusable
from bp_core.rail import Job
from bp_export.config import ExportConfig
from bp_export.weights.merge import open_base


def quiet(event):
    return None


@pytest.fixture(scope="module")
def source(tiny_llama):
    return tiny_llama


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    """`source` as `mlx_lm.convert -q` writes it."""
    folder = tmp_path_factory.mktemp("mlx") / "tiny-4bit"
    convert(str(source), str(folder), quantize=True, q_bits=4, q_group_size=64)
    return folder


def trainer(model, output, **changes):
    settings = dict(backend="mlx", rank=4, learning_rate=1e-2, batch_size=2, max_length=64, report_to="none")
    return Trainer(str(model), output=str(output), **settings | changes)


def test_the_numbers_are_those_that_mlx_computes_with(packed, source):
    stored, read = load_file(packed / "model.safetensors"), open_base(packed)
    assert set(read.names()) == set(open_base(source).names())
    for name in ("model.layers.0.mlp.down_proj", "model.embed_tokens"):
        parts = [mx.array(stored[f"{name}.{part}"]) for part in ("weight", "scales", "biases")]
        theirs = np.array(
            mx.dequantize(parts[0], *(part.astype(mx.float32) for part in parts[1:]), group_size=64, bits=4)
        )
        np.testing.assert_allclose(read.array(f"{name}.weight"), theirs, rtol=1e-6, atol=1e-7)
        assert read.shape(f"{name}.weight") == theirs.shape
    packed_words = stored["model.embed_tokens.weight"]
    assert packed_words.dtype == np.uint32 and packed_words.size * 8 == np.prod(theirs.shape)


def test_it_is_trained_on_as_it_is_and_exported_both_ways(packed, source, rows, tmp_path):
    tuned = trainer(packed, tmp_path)
    run = tuned.train(rows, steps=2, watch=quiet)
    record = json.loads((run.folder / "run.json").read_text())
    assert record["opened"]["dtype"] == "4-bit affine" and record["opened"]["parameters"] > 12_000_000
    tuned.close()
    words = [3, 500, 1200, 77]
    rail = find("mlx")
    rail.open(Artifact.find(run.adapter).job(quiet, "float32"))
    trained = rail.logits(words)
    for name, base in {"unpacked": None, "source": str(source)}.items():
        done = tuned.export("merged", output=str(tmp_path / name), base=base, notify=quiet)
        assert "quantization" not in json.loads((done.path / "config.json").read_text())
        whole = find("cpu")
        whole.open(Job(done.path, dtype="float32"))
        error = np.abs(whole.logits(words) - trained).max()
        assert error < 0.02 if base is None else error > 0.02  # the 16-bit source is another model, a finer one
    with pytest.raises(AdapterUnusable, match="not the model it was trained on"):
        tuned.export("merged", output=str(tmp_path / "other"), base=str(other(source, tmp_path)), notify=quiet)


@pytest.mark.slow
@pytest.mark.parametrize("onto", ["unpacked", "source", "source, quantised as it was loaded"])
def test_a_gguf_of_it_is_proven_and_the_cost_is_told(onto, packed, source, rows, tmp_path):
    """Where the file has other weights than those that were trained beside, the loss on these is put next to it."""
    as_loaded = onto == "source, quantised as it was loaded"
    tuned = trainer(source, tmp_path, mode="qlora") if as_loaded else trainer(packed, tmp_path)
    tuned.train(rows, steps=4, watch=quiet)
    tuned.close()
    done = tuned.export("gguf", quantization="q8_0", base=str(source) if onto == "source" else None, notify=quiet)
    assert done.parity.proven and done.parity.compared_with == "model"
    assert ("4-bit affine" in done.parity.losses) == (onto != "unpacked")


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (dict(backend="cpu"), ModelUnusable, "4 bits"),
        (dict(mode="full", rank=None), ModelUnusable, "4 bits"),
        (dict(rank=5000), BadValue, "rank is 5000, but down_proj is 256 × 512"),
    ],
)
def test_what_cannot_be_done_with_it_is_refused(settings, error, words, packed, rows, tmp_path):
    with pytest.raises(error, match=words):
        trainer(packed, tmp_path, **settings).plan(rows)


def test_bits_that_share_words_unevenly_are_refused(packed, tmp_path):
    config = json.loads((packed / "config.json").read_text())
    config["quantization"]["mode"] = "mxfp4"
    folder = shutil.copytree(packed, tmp_path / "other")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnusable, match="4-bit mxfp4"):
        open_base(folder)


def test_a_base_for_an_export_that_merges_nothing_is_refused():
    with pytest.raises(BadValue, match="base is set"):
        ExportConfig(format="lora", base="somewhere")


def other(source, tmp_path):
    """The same model with other weights."""
    folder = shutil.copytree(source, tmp_path / "with-other-weights")
    weights = {name: value[::-1].copy() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
