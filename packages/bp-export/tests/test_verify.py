"""`verify` on good files, and on files with a fault put in: with the trained model, and with weights only."""

import dataclasses
import json
import shutil
from functools import partial

import pytest
import tiny_families
from gguf import GGUFWriter

from bp_core.contract import Contract
from bp_core.errors import GgufUnusable
from bp_core.folders import write_json
from bp_core.model_files import read_json
from bp_export import export, gguf_facts, quantize, verify
from bp_export.config import ExportConfig
from bp_export.gguf import convert
from bp_export.gguf.convert import Converter
from bp_export.gguf.reader import GgufFile
from bp_export.gguf.vocabulary import read as read_vocabulary
from bp_export.proof import prompts
from bp_export.weights import adapter as lora
from bp_export.weights.merge import MergedWeights, open_base

CONTRACT = Contract(tiny_families.TEMPLATE, "none", (4,), ("<|im_end|>",))


class Changed:
    """A source with something wrong in it."""

    def __init__(self, source, part, change):
        self.source, self.part, self.change = source, part, change

    def __getattr__(self, name):
        return getattr(self.source, name)

    def array(self, name):
        value = self.source.array(name)
        return self.change(value) if self.part in name else value


def scaled(base, adapter, factor):
    return MergedWeights(
        base, {name: dataclasses.replace(d, scale=d.scale * factor) for name, d in lora.read(adapter).items()}
    )


def halves(rows):
    """Undo beforehand what the converter will do to the four heads of q."""
    pairs = rows.reshape(4, 32, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def weights(change):
    return lambda base, adapter: {"source": change(base, adapter)}


def words(**change):
    return lambda base, adapter: {"words": change}


def settings(**change):
    return lambda base, adapter: {"config": change}


FAULTS = {
    "adapter dropped": weights(lambda base, adapter: open_base(base)),
    "merged twice": weights(lambda base, adapter: scaled(base, adapter, 2)),
    "wrong alpha": weights(lambda base, adapter: scaled(base, adapter, 8**-0.5)),
    "swapped q/k permutation": weights(lambda base, adapter: Changed(scaled(base, adapter, 1), "q_proj", halves)),
    "wrong rope": settings(rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "double BOS": words(add_bos=True),
    "wrong template": words(template="{{ messages }}"),
    "missing terminator": words(ids={"bos": 1, "eos": 2}),
    "one flipped tensor": weights(
        lambda base, adapter: Changed(scaled(base, adapter, 1), "layers.1.mlp.up_proj", lambda value: value[::-1])
    ),
}
CAUGHT_BY = {
    "adapter dropped": ("weights in the file", "training survived in the f16 file"),
    "merged twice": ("weights in the file", "training survived in the f16 file"),
    "wrong alpha": ("weights in the file", "training survived in the f16 file"),
    "swapped q/k permutation": ("weights in the file", "f16 divergence"),
    "wrong rope": ("fields of the file", "f16 divergence"),
    "double BOS": ("fields of the file", "f16 adds a first token"),
    "wrong template": ("fields of the file", "f16 chat template"),
    "missing terminator": ("fields of the file", "f16 end of turn"),
    "one flipped tensor": ("weights in the file", "f16 divergence"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_families.save("smollm2", tmp_path_factory.mktemp("b") / "smollm2")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tiny_families.save_adapter(base, tmp_path_factory.mktemp("a") / "lora", config={"lora_alpha": 8})
    write_json(folder / "contract.json", CONTRACT.as_dict())
    return folder


@pytest.fixture(scope="module")
def reference(base, adapter, helpers):
    return helpers.Reference(base, adapter)


def write(base, adapter, target, type_="f16", *, source=None, words=None, config=None):
    """A GGUF as `export` makes it, with whatever is wrong."""
    folder = base
    if config:
        folder = target.with_suffix(".base")
        folder.mkdir()
        write_json(folder / "config.json", read_json(base / "config.json") | config)
    converter = Converter(source or scaled(base, adapter, 1), folder, type_)
    found = read_vocabulary(base, converter.vocabulary_size, CONTRACT)
    converter.write(target, dataclasses.replace(found, **words or {}), "m")
    return target


def failed(parity):
    return [check.name for check in parity.failures]


@pytest.mark.parametrize("type_", ["f32", "f16", "q8_0"])
def test_a_good_file_passes_with_and_without_the_model(type_, base, adapter, reference, tmp_path):
    file = write(base, adapter, tmp_path / "m.gguf", type_)
    for known in (reference, None):
        parity = verify(file, base, adapter, reference=known)
        assert parity.proven, parity.failures
        assert (parity.compared_with, parity.quantization) == ("model" if known else "tensors", type_)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails(fault, base, adapter, reference, tmp_path):
    file = write(base, adapter, tmp_path / "m.gguf", **FAULTS[fault](base, adapter))
    without, with_model = CAUGHT_BY[fault]
    assert without in failed(verify(file, base, adapter))
    assert with_model in failed(verify(file, base, adapter, reference=reference))


@pytest.mark.parametrize("fault", ["merged twice", "one flipped tensor"])
def test_faults_in_a_quantised_file_fail(fault, base, adapter, tmp_path):
    plain = write(base, adapter, tmp_path / "m.gguf", **FAULTS[fault](base, adapter))
    quantize(plain, tmp_path / "q.gguf", "q4_k_m")
    assert "weights in the file" in failed(verify(tmp_path / "q.gguf", base, adapter))


@pytest.mark.parametrize("quantization", ["q6_k", "q4_k_m"])
def test_a_good_quantised_file_passes(quantization, base, adapter, tmp_path):
    quantize(write(base, adapter, tmp_path / "m.gguf"), tmp_path / "q.gguf", quantization)
    parity = verify(tmp_path / "q.gguf", base, adapter)
    assert parity.proven, parity.failures
    assert next(check for check in parity.checks if check.name == "weights in the file").measured > 0.1


def test_a_truncated_file_fails(base, adapter, tmp_path):
    whole = write(base, adapter, tmp_path / "m.gguf").read_bytes()
    for size in (len(whole) - 1000, 1000, 10, 0):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        for source in ((base, adapter), ()):
            assert failed(verify(tmp_path / "cut.gguf", *source)) == ["file is complete"]


def test_without_its_source_a_file_is_checked_in_itself(base, adapter, tmp_path):
    file = write(base, adapter, tmp_path / "m.gguf")
    alone = verify(file)
    assert (alone.proven, alone.compared_with, len(alone.warnings)) == (True, "nothing", 1)
    done = export(adapter, base, ExportConfig(quantization="f16", output=str(tmp_path / "e.gguf")))
    assert not verify(done.path).warnings
    data = bytearray(done.path.read_bytes())
    data[-1000] ^= 1
    done.path.write_bytes(data)
    assert failed(verify(done.path)) == ["as it was proven"]


def test_the_report_can_be_written_as_json(base, adapter, tmp_path):
    parity = verify(write(base, adapter, tmp_path / "m.gguf"), base, adapter)
    assert json.loads(json.dumps(parity.as_dict()))["proven"] is True


PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
AS_PYTHON_WRITES_IT = "{% if tools %}{{ tools }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "measured", "passed", "warning"),
    [
        (PLAIN, "0 of 4 differ", True, False),
        # the file ends answers with <|im_end|>, and the tokenizer says </s>
        (PLAIN.replace("\n", "{{ eos_token }}"), "4 of 4 differ", False, False),
        (AS_PYTHON_WRITES_IT + PLAIN, "3 of 7 differ", True, True),
        (PLAIN + "{{ messages[0].role.frobnicate() }}", "cannot be rendered", False, False),
    ],
)
def test_prompts_are_those_of_training(template, measured, passed, warning, base, tmp_path):
    contract = dataclasses.replace(CONTRACT, template=template)
    converter = Converter(open_base(base), base, "f16")
    converter.write(tmp_path / "m.gguf", read_vocabulary(base, converter.vocabulary_size, contract), "m")
    folder = shutil.copytree(base, tmp_path / "base")
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", settings | {"eos_token": "</s>"})
    (check,) = prompts.check(tmp_path / "m.gguf", gguf_facts(tmp_path / "m.gguf"), folder, contract)
    assert (check.measured, check.passed, check.warning) == (measured, passed, warning)


def gemma(base, target, *, scores, swa=True):
    converter = Converter(open_base(base), base)
    if not swa:
        converter._settings = {n: value for n, value in converter._settings.items() if n != "rope_freq_base_swa"}
    found = read_vocabulary(base, converter.vocabulary_size)
    converter.write(target, dataclasses.replace(found, scores=[scores(score) for score in found.scores]), "m")
    return target


def test_what_llama_cpps_own_converter_writes_otherwise_is_no_fault(tmp_path):
    base = tiny_families.save("gemma3", tmp_path / "base")
    tokenizer = base / "tokenizer_config.json"
    write_json(tokenizer, read_json(tokenizer) | {"eos_token": "</s>"})  # its template ends a turn otherwise
    theirs = gemma(base, tmp_path / "m.gguf", scores=lambda score: score * 0.5 - 7, swa=False)
    (check,) = [check for check in verify(theirs, base).checks if check.name == "fields of the file"]
    assert check.passed, check.note
    upside_down = gemma(base, tmp_path / "u.gguf", scores=lambda score: -score)
    (check,) = [check for check in verify(upside_down, base).checks if check.name == "fields of the file"]
    assert "scores" in check.note


def test_an_adapter_in_a_gguf_is_verified_as_one(base, adapter, tmp_path):
    file = export(adapter, base, ExportConfig(format="gguf-lora", output=str(tmp_path / "l.gguf"))).path
    assert verify(file, base, adapter).proven
    assert [check.passed for check in verify(file).checks] == [True, True]
    with pytest.raises(GgufUnusable, match="LoRA adapter") as caught:
        gguf_facts(file)
    assert "--lora" in caught.value.fix


def test_a_model_in_several_files(base, adapter, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(convert, "GGUFWriter", partial(GGUFWriter, split_max_tensors=9))
        write(base, adapter, tmp_path / "m.gguf")
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) > 2
    assert verify(parts[0], base, adapter).proven
    with pytest.raises(GgufUnusable, match="this is part 2") as caught:
        GgufFile(parts[1])
    assert str(parts[0]) in caught.value.fix
    parts[-1].rename(tmp_path / "gone")
    with pytest.raises(GgufUnusable, match=parts[-1].name):
        GgufFile(parts[0])
