import subprocess
import sys

import numpy as np
import pytest
import tiny_families
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from bp_core.errors import GgufUnusable, UnknownQuantization
from bp_export import quantize
from bp_export.gguf.convert import Converter
from bp_export.gguf.reader import GgufFile
from bp_export.gguf.vocabulary import read
from bp_export.quantization import ggml
from bp_export.quantization.mixture import MIXTURES
from bp_export.quantization.quantize import quantized_size
from bp_export.weights.merge import open_base

# In a process of its own: llama.cpp ends the whole process when it fails.
BY_LLAMA_CPP = """
import sys
from cyllama.llama import llama_cpp

for target, file_type in zip(sys.argv[2::2], sys.argv[3::2]):
    settings = llama_cpp.LlamaModelQuantizeParams()
    settings.ftype, settings.nthread = int(file_type), 1
    llama_cpp.model_quantize(sys.argv[1], target, settings)
"""


def by_llama_cpp(source, folder):
    """The files that llama.cpp's own quantiser writes, by quantization."""
    files = {name: folder / f"theirs-{name}.gguf" for name in MIXTURES}
    arguments = [str(part) for name, file in files.items() for part in (file, int(MIXTURES[name].file_type))]
    subprocess.run([sys.executable, "-c", BY_LLAMA_CPP, str(source), *arguments], check=True, capture_output=True)
    return files


def float_file(base, target, type_="f16"):
    converter = Converter(open_base(base), base, type_)
    converter.write(target, read(base, converter.vocabulary_size), base.name)
    return target


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantization")
    return float_file(tiny_families.save("gemma3", folder / "gemma3"), folder / "f16.gguf")


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_every_file_is_llama_cpps_own_byte_for_byte(family, tmp_path):
    pytest.importorskip("cyllama")
    source = float_file(tiny_families.save(family, tmp_path / family), tmp_path / "f16.gguf")
    for name, theirs in by_llama_cpp(source, tmp_path).items():
        quantize(source, tmp_path / "ours.gguf", name)
        assert (tmp_path / "ours.gguf").read_bytes() == theirs.read_bytes(), name


@pytest.mark.parametrize("type_", ["f32", "bf16"])
def test_other_float_files_are_quantised_alike(type_, tmp_path):
    pytest.importorskip("cyllama")
    source = float_file(tiny_families.save("llama31", tmp_path / "llama31"), tmp_path / "plain.gguf", type_)
    theirs = by_llama_cpp(source, tmp_path)["q4_k_m"]
    quantize(source, tmp_path / "ours.gguf", "q4_k_m")
    assert (tmp_path / "ours.gguf").read_bytes() == theirs.read_bytes()


def test_the_number_of_threads_changes_nothing(plain, tmp_path, monkeypatch):
    quantize(plain, tmp_path / "one.gguf", "q4_k_m")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("bp_export.quantization.quantize._PART", 1 << 12)
    quantize(plain, tmp_path / "three.gguf", "q4_k_m")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "three.gguf").read_bytes()


def test_progress_is_told_by_tensor(plain, tmp_path):
    seen = []
    quantize(plain, tmp_path / "q.gguf", "q6_k", notify=seen.append)
    tensors = len(GgufFile(plain).tensors)
    assert [(step.stage, step.done, step.total) for step in seen] == [
        ("quantize", done, tensors) for done in range(1, tensors + 1)
    ]


def test_the_size_is_known_beforehand(plain, tmp_path):
    for name in MIXTURES:
        quantize(plain, tmp_path / "q.gguf", name)
        written = GgufFile(tmp_path / "q.gguf")
        assert quantized_size(GgufFile(plain), name, importance=False) == sum(
            tensor.size for tensor in written.tensors.values()
        )


def test_what_cannot_be_quantised_is_refused(plain, tmp_path, gguf_source):
    with pytest.raises(UnknownQuantization, match="q3_k_s"):
        quantize(plain, tmp_path / "out.gguf", "q3_k_s")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(GgufUnusable):
        quantize(tmp_path / "bad.gguf", tmp_path / "out.gguf", "q6_k")
    with pytest.raises(GgufUnusable, match="quantised already"):
        quantize(gguf_source, tmp_path / "out.gguf", "q4_k_m")


def test_a_value_that_is_not_finite_is_refused_by_name(plain, tmp_path):
    tensor = GgufFile(plain).tensors["blk.0.ffn_up.weight"]
    broken = bytearray(plain.read_bytes())
    broken[tensor.offset : tensor.offset + 2] = np.float16("nan").tobytes()
    (tmp_path / "nan.gguf").write_bytes(broken)
    with pytest.raises(GgufUnusable, match=r"blk\.0\.ffn_up\.weight has values that are not finite"):
        quantize(tmp_path / "nan.gguf", tmp_path / "out.gguf", "q4_k_m")


def test_columns_that_matter_more_get_smaller_errors(tmp_path):
    random = np.random.default_rng(0)
    values = random.standard_normal((64, 512)).astype(np.float32)
    importance = np.where(np.arange(512) % 8, 0.01, 100).astype(np.float32)
    for type_ in (GGMLQuantizationType.Q4_K, GGMLQuantizationType.IQ3_S, GGMLQuantizationType.Q3_K):
        errors = [weighted_error(values, type_, importance, given) for given in (None, importance)]
        assert errors[1] < 0.8 * errors[0], type_


def weighted_error(values, type_, importance, given):
    packed = ggml.pack(values, type_, given)
    found = dequantize(packed, type_).reshape(values.shape)
    return float((importance * (found - values) ** 2).mean())
