import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tiny_families
from reference import summary

from bp_core.errors import AdapterUnusable
from bp_export import export
from bp_export.config import ExportConfig
from bp_export.gguf.convert import Converter
from bp_export.gguf.lora import LoraConverter
from bp_export.gguf.vocabulary import read as read_vocabulary
from bp_export.weights.merge import trained_weights

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))
KINDS = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "alpha pattern": {"alpha_pattern": {"q_proj": 64}},
    "rank pattern": {"rank_pattern": {"v_proj": 4}, "use_rslora": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_families.save("llama31", tmp_path_factory.mktemp("b") / "llama31")


def adapter_of(base, folder, kind):
    ranks = {"v_proj": 4} if kind == "rank pattern" else {}
    return tiny_families.save_adapter(base, folder, config=KINDS[kind], ranks=ranks)


def written(adapter, base, target):
    converter = LoraConverter(adapter, base)
    converter.write(target, "m")
    return converter, target


@pytest.mark.parametrize("name", tiny_families.WITH_LORA)
def test_the_same_as_llama_cpps_converter(name, tmp_path):
    base = tiny_families.save(name, tmp_path / name)
    adapter = tiny_families.save_adapter(base, tmp_path / "lora")
    ours, theirs = summary(written(adapter, base, tmp_path / "l.gguf")[1]), REFERENCE[f"{name} lora"]
    assert ours["tensors"] == theirs["tensors"]
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert ours["fields"][key] == theirs["fields"][key]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_is_what_merging_adds(kind, base, tmp_path):
    converter, path = written(adapter_of(base, tmp_path / "lora", kind), base, tmp_path / "l.gguf")
    parity = converter.check(path)
    assert parity.proven, parity.failures
    assert parity.compared_with == "tensors"
    if kind != "plain":
        _, wrong = written(adapter_of(base, tmp_path / "other", "plain"), base, tmp_path / "w.gguf")
        assert [check.name for check in converter.check(wrong).failures] == ["change of the weights"]


def test_the_tiled_heads_of_a_hybrid(tmp_path):
    base = tiny_families.save("qwen3.5", tmp_path / "m")
    adapter = tiny_families.save_adapter(base, tmp_path / "lora")
    converter, path = written(adapter, base, tmp_path / "l.gguf")
    assert converter.check(path).proven


@pytest.mark.parametrize("kind", ["rsLoRA", "alpha pattern"])
def test_llama_cpp_applies_it_as_the_merged_model(kind, base, tmp_path):
    pytest.importorskip("xllamacpp")
    adapter = adapter_of(base, tmp_path / "lora", kind)
    _, lora = written(adapter, base, tmp_path / "l.gguf")
    plain, merged = (gguf(which, base, tmp_path / f"{bool(which)}.gguf") for which in (None, adapter))
    with_adapter, alone, wanted = first_choices((plain, lora), (plain, None), (merged, None))
    assert max(abs(with_adapter[token] - wanted[token]) for token in wanted.keys() & with_adapter.keys()) < 0.01
    assert with_adapter.keys() == wanted.keys() != alone.keys()


def gguf(adapter, base, target):
    converter = Converter(trained_weights(adapter, base), base)
    converter.write(target, read_vocabulary(base, converter.vocabulary_size), "m")
    return target


def first_choices(*models):
    """The log-probabilities of the likeliest next tokens, as another llama.cpp computes them."""
    code = """
        import json, sys
        import xllamacpp
        found = []
        for model, lora in json.loads(sys.argv[1]):
            params = xllamacpp.CommonParams()
            params.model.path = model
            params.n_ctx, params.warmup, params.cpuparams.n_threads = 256, False, 1
            if lora:
                params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
            ask = {"prompt": "Hello, world! It is", "max_tokens": 1, "temperature": 0, "logprobs": 5}
            answer = xllamacpp.Server(params).handle_completions(ask)
            found.append(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"])
        print(json.dumps(found))
    """
    paths = [[str(model), str(lora) if lora else ""] for model, lora in models]
    command = [sys.executable, "-c", textwrap.dedent(code), json.dumps(paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [{top["id"]: top["logprob"] for top in tops} for tops in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("what", ["DoRA", "trained whole"])
def test_what_such_a_file_cannot_hold_is_refused(what, base, tmp_path):
    if what == "DoRA":
        module = "base_model.model.model.layers.0.self_attn.q_proj"
        more, settings = {f"{module}.lora_magnitude_vector": np.ones(256, np.float32)}, {"use_dora": True}
    else:
        head = np.zeros((tiny_families.SIZE, 256), np.float32)
        more, settings = {"base_model.model.lm_head.weight": head}, {"modules_to_save": ["lm_head"]}
    only = "layers.0.self_attn.q_proj"
    adapter = tiny_families.save_adapter(base, tmp_path / "lora", only=only, config=settings, **more)
    with pytest.raises(AdapterUnusable) as caught:
        export(adapter, base, ExportConfig(format="gguf-lora"))
    assert what in caught.value.message and "Merge instead" in caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


def test_where_it_goes(base, tmp_path):
    adapter = tiny_families.save_adapter(base, tmp_path / "lora")
    done = export(adapter, base, ExportConfig(format="gguf-lora"))
    assert done.path == tmp_path / "llama31-lora.gguf"
    report = json.loads(done.parity_path.read_text(encoding="utf-8"))
    assert (report["proven"], report["compared_with"], done.format) == (True, "tensors", "gguf-lora")
