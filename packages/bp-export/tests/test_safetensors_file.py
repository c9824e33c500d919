import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bp_core.errors import ModelUnusable
from bp_export.weights import safetensors_file
from bp_export.weights.safetensors_file import Weights


class Arrays:
    def __init__(self, arrays):
        self.arrays = arrays

    def names(self):
        return self.arrays

    def shape(self, name):
        return self.arrays[name].shape

    def dtype(self, name):
        return self.arrays[name].dtype

    def array(self, name):
        return self.arrays[name]


RANDOM = np.random.default_rng(0)
ARRAYS = {
    "a": RANDOM.normal(size=(3, 5)).astype(np.float32),
    "half": RANDOM.normal(size=(7,)).astype(np.float16),
    "brain": RANDOM.normal(size=(2, 2, 2)).astype(ml_dtypes.bfloat16),
    "tiny": RANDOM.normal(size=(4,)).astype(ml_dtypes.float8_e4m3fn),
    "whole": np.arange(6, dtype=np.int64).reshape(2, 3),
    "scalar": np.array(2.5, np.float64),
    "empty": np.zeros((0, 4), np.float32),
}


def test_reads_what_safetensors_wrote(tmp_path):
    save_file(ARRAYS, tmp_path / "m.safetensors")
    read = Weights(tmp_path / "m.safetensors")
    assert set(read.names()) == set(ARRAYS)
    for name, value in ARRAYS.items():
        assert (read.dtype(name), read.shape(name)) == (value.dtype, value.shape)
        assert np.array_equal(read.array(name), value), name


def test_safetensors_reads_what_we_wrote(tmp_path):
    path = tmp_path / "m.safetensors"
    assert list(safetensors_file.write(path, Arrays(ARRAYS), ARRAYS)) == list(ARRAYS)
    assert Weights(path).array("tiny").tobytes() == ARRAYS["tiny"].tobytes()
    known = {name: value for name, value in ARRAYS.items() if name != "tiny"}  # safetensors.numpy cannot load float8
    list(safetensors_file.write(path, Arrays(known), known))
    for name, value in load_file(path).items():
        assert value.dtype == ARRAYS[name].dtype
        assert np.array_equal(value, ARRAYS[name]), name


def test_reading_maps_and_does_not_load(tmp_path):
    save_file(ARRAYS, tmp_path / "m.safetensors")
    assert isinstance(Weights(tmp_path / "m.safetensors").array("a"), np.memmap)


def test_shards_with_an_index(tmp_path):
    save_file({"a": ARRAYS["a"]}, tmp_path / "one.safetensors")
    save_file({"b": ARRAYS["half"]}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / safetensors_file.INDEX).write_text(json.dumps(index), encoding="utf-8")
    assert sorted(Weights(tmp_path).names()) == ["a", "b"]
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ModelUnusable, match="missing"):
        Weights(tmp_path)
    index["weight_map"]["b"] = "../elsewhere.safetensors"
    (tmp_path / safetensors_file.INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelUnusable, match="outside"):
        Weights(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(ModelUnusable, match=r"no model\.safetensors"):
        Weights(tmp_path)


def header(text):
    return struct.pack("<Q", len(text)) + text


BROKEN = {
    "empty": b"",
    "only a length": struct.pack("<Q", 100),
    "a length beyond the end": struct.pack("<Q", 2**60) + b"{}",
    "no json": header(b"{oh"),
    "a list": header(b"[]"),
    "an unknown type": header(b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}') + b"0",
    "beyond the end": header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}') + b"0000",
    "wrong size": header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}') + b"0000",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(ModelUnusable):
        Weights(path)


def test_every_cut_of_a_file_is_noticed(tmp_path):
    save_file({"a": ARRAYS["a"]}, tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    for end in range(0, len(whole), 3):
        (tmp_path / "m.safetensors").write_bytes(whole[:end])
        with pytest.raises(ModelUnusable):
            Weights(tmp_path / "m.safetensors")
