"""Headers of safetensors files: what is read is what was written, and nothing outside the file is believed."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_core.tensor_file import SIZES, StoredTensor, TensorFileBroken, header_bytes, read_header

SHAPES = st.lists(st.integers(0, 5), max_size=3)


@given(tensors=st.dictionaries(st.text(min_size=1), st.tuples(st.sampled_from(sorted(SIZES)), SHAPES), max_size=5))
def test_what_is_read_is_what_was_written(tensors, tmp_path_factory):
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("made") / "a.safetensors"
    text = header_bytes(((name, *rest) for name, rest in tensors.items()), {"format": "pt"})
    sizes = {}
    for name, (dtype, shape) in tensors.items():
        sizes[name] = SIZES[dtype]
        for side in shape:
            sizes[name] *= side
    path.write_bytes(text + bytes(sum(sizes.values())))
    found = read_header(path)
    assert len(text) % 8 == 0 and found.metadata == {"format": "pt"} and found.tensors.keys() == tensors.keys()
    offset = len(text)
    for name, (dtype, shape) in tensors.items():
        assert found.tensors[name] == StoredTensor(dtype, tuple(shape), offset)
        offset += sizes[name]


def entry(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def doubled(text):
    return text.replace('"b"', '"a"')


HOSTILE = {
    "a gap": json.dumps({"a": entry(0, 4), "b": entry(8, 12)}),
    "an overlap": json.dumps({"a": entry(0, 4), "b": entry(0, 4), "c": entry(4, 12, [2])}),
    "bytes of no tensor": json.dumps({"a": entry(0, 4)}),
    "a name twice": doubled(json.dumps({"a": entry(0, 4), "b": entry(4, 12, [2])})),
    "negative sides": json.dumps({"a": entry(0, 12, [-3, -1])}),
    "offsets before the file": json.dumps({"a": entry(-4, 8, [3])}),
    "more than there is": json.dumps({"a": entry(0, 4 << 40, [1 << 40])}),
    "no offsets": json.dumps({"a": {"dtype": "F32", "shape": [3]}}),
    "no object": json.dumps([1, 2]),
    "an unknown type": json.dumps({"a": entry(0, 12, [3], "F33")}),
    "nesting without end": "[" * 100_000,
    "no JSON": "{oh",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_header_that_does_not_describe_its_file_is_refused(kind, tmp_path):
    text = HOSTILE[kind].encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
    with pytest.raises(TensorFileBroken, match="truncated or broken"):
        read_header(tmp_path / "a")


@pytest.mark.parametrize("text", [b"", b"\0\0\0", struct.pack("<Q", 1 << 60) + b"{}"])
def test_a_file_that_ends_before_its_header_is_refused(text, tmp_path):
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(TensorFileBroken, match="truncated or broken"):
        read_header(tmp_path / "a")


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(TensorFileBroken, match="missing"):
        read_header(tmp_path / "a")
