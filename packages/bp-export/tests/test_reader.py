import numpy as np
import pytest
from gguf import GGUFReader

from bp_core.errors import FileMissing, GgufUnusable
from bp_export import gguf_facts
from bp_export.gguf.reader import GgufFile


def test_reads_what_the_reference_reader_reads(gguf_source):
    ours, theirs = GgufFile(gguf_source), GGUFReader(gguf_source)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors[::40]:
        assert ours.raw(tensor.name).tobytes() == tensor.data.tobytes()
        assert ours.tensors[tensor.name].type == tensor.tensor_type
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.fields == fields


def test_facts(gguf_source):
    facts = gguf_facts(gguf_source)
    assert (facts.architecture, facts.context_length, facts.parameters) == ("llama", 8192, 134_515_008)
    assert (facts.bos, facts.bos_token, facts.eos, facts.eos_token) == (1, "<|im_start|>", 2, "<|im_end|>")
    assert facts.types == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    assert facts.add_bos is False
    assert "<|im_start|>" in facts.template


def test_what_is_not_a_whole_gguf(tmp_path, gguf_source):
    whole = gguf_source.read_bytes()
    path = tmp_path / "m.gguf"
    for end in (0, 3, 10, 24, 30, 1000, 100_000, 3_000_000, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(GgufUnusable):
            gguf_facts(path)
    path.write_bytes(b"not a model at all, but long enough to be read as one" * 10)
    with pytest.raises(GgufUnusable, match="letters GGUF"):
        gguf_facts(path)
    path.write_bytes(whole[:4] + (9).to_bytes(4, "little") + whole[8:1000])
    with pytest.raises(GgufUnusable, match="version 9"):
        gguf_facts(path)
    with pytest.raises(FileMissing):
        gguf_facts(tmp_path / "none.gguf")


def test_a_corrupt_header_is_refused(tmp_path, gguf_source):
    whole = bytearray(gguf_source.read_bytes()[:2_000_000])
    random = np.random.default_rng(0)
    path = tmp_path / "m.gguf"
    for _ in range(40):
        broken = bytearray(whole)
        broken[int(random.integers(8, 3000))] ^= int(random.integers(1, 256))
        path.write_bytes(broken)
        with pytest.raises(GgufUnusable):
            gguf_facts(path)
