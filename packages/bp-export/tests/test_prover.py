"""Faults put in on purpose: each must fail the proof, and an export without faults must pass it."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bp_core.contract import Contract
from bp_core.examples import Sample
from bp_export import TrainedModel, prove, quantize
from bp_export.gguf.reader import GgufFile
from bp_export.gguf.vocabulary import read as read_vocabulary
from bp_export.proof.divergence import Divergence, FirstChoices, Loss, Strength, distinct_positions
from bp_export.proof.endings import GENERATED
from bp_export.weights import adapter as lora
from bp_export.weights.merge import MergedWeights, open_base, write_merged

SELDOM = [pytest.param(name, marks=pytest.mark.slow) for name in ("q6_k", "q5_k_m")]


@pytest.fixture(scope="module")
def subject(tiny_llama, llama_adapter, llama_reference, samples):
    return TrainedModel.open(llama_adapter, tiny_llama, reference=llama_reference, samples=samples)


@pytest.fixture(scope="module")
def good(subject, tmp_path_factory, helpers):
    folder = tmp_path_factory.mktemp("good")
    return helpers.write_gguf(subject.converter.source, subject.base, folder / "m.gguf", contract=subject.contract)


def failures(parity):
    return {check.name for check in parity.failures}


def prove_f16(subject, gguf):
    return prove(subject, gguf, gguf, "f16")


def test_a_faithful_file_is_proven(subject, good):
    parity = prove_f16(subject, good)
    assert parity.proven, parity.failures
    checks = {check.name: check for check in parity.checks}
    assert checks["f16 divergence"].measured <= 1e-5
    assert checks["training survived in the f16 file"].measured["strength"] == pytest.approx(1, abs=0.01)
    assert checks["training survived in the f16 file"].measured["training moved the model by"] > 0.01
    assert set(parity.losses) == {"base", "adapter", "merged", "final"}
    assert parity.losses["merged"] == pytest.approx(parity.losses["adapter"], abs=1e-3)
    assert abs(parity.losses["base"] - parity.losses["adapter"]) > 1e-3
    assert parity.compared_with == "model"
    assert parity.types == {"F16": 16, "F32": 5}
    assert parity.as_dict()["proven"] is True


class Changed:
    """A source with something wrong in it."""

    def __init__(self, source, change):
        self.source, self.change = source, change

    def __getattr__(self, name):
        return getattr(self.source, name)

    def array(self, name):
        return self.change(name, self.source.array(name))


def scaled(deltas, factor):
    return {name: dataclasses.replace(delta, scale=delta.scale * factor) for name, delta in deltas.items()}


def only(part, change):
    return lambda name, value: change(value) if part in name else value


def sources(base, adapter):
    deltas = lora.read(adapter)
    merged = MergedWeights(base, deltas)
    one = "layers.1.self_attn.v_proj"
    return {
        "adapter dropped": open_base(base),
        "merged twice": MergedWeights(base, scaled(deltas, 2)),
        "half the alpha": MergedWeights(base, scaled(deltas, 0.5)),
        "alpha without its root": MergedWeights(base, scaled(deltas, 8**-0.5)),
        "one tensor zeroed": Changed(merged, only(one, np.zeros_like)),
        "one tensor flipped": Changed(merged, only(one, lambda value: value[::-1])),
        "one sign wrong": Changed(merged, only("layers.0.mlp.down_proj", np.negative)),
        "one norm forgotten": Changed(merged, only("layers.0.input_layernorm", np.ones_like)),
        "rows of q not reordered": Changed(merged, only("q_proj", lambda value: halves(value, 4))),
    }


def halves(rows, heads):
    """Undo beforehand what the converter will do."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


@pytest.mark.parametrize(
    "fault",
    [
        *("adapter dropped", "merged twice", "half the alpha", "alpha without its root", "one tensor zeroed"),
        *("one tensor flipped", "one sign wrong", "one norm forgotten", "rows of q not reordered"),
    ],
)
def test_wrong_weights_fail(fault, subject, llama_adapter, tmp_path, helpers):
    source = sources(subject.base, llama_adapter)[fault]
    gguf = helpers.write_gguf(source, subject.base, tmp_path / "m.gguf", contract=subject.contract)
    parity = prove_f16(subject, gguf)
    assert "f16 divergence" in failures(parity)
    if "alpha" in fault or "adapter" in fault or "twice" in fault:
        assert "training survived in the f16 file" in failures(parity)


def test_a_faint_adapter_that_was_dropped_is_noticed(tiny_llama, tmp_path, samples, helpers):
    adapter = helpers.save_adapter(tiny_llama, tmp_path / "lora", strength=6e-4)
    reference = helpers.Reference(tiny_llama, adapter)
    subject = TrainedModel.open(adapter, tiny_llama, reference=reference, samples=samples)
    right = helpers.write_gguf(subject.converter.source, tiny_llama, tmp_path / "r.gguf", contract=subject.contract)
    wrong = helpers.write_gguf(open_base(tiny_llama), tiny_llama, tmp_path / "w.gguf", contract=subject.contract)
    assert prove_f16(subject, right).proven
    parity = prove_f16(subject, wrong)
    moved = next(check for check in parity.checks if "survived" in check.name).measured["training moved the model by"]
    assert 2e-5 < moved < 1e-4, "the strict gate alone would not see it"
    assert "training survived in the f16 file" in failures(parity)
    assert "f16 divergence" not in failures(parity)


def test_an_adapter_that_changes_nothing_is_no_reason_to_fail(tiny_llama, tmp_path, samples, helpers):
    adapter = helpers.save_adapter(tiny_llama, tmp_path / "lora", strength=0.0)
    reference = helpers.Reference(tiny_llama, adapter)
    subject = TrainedModel.open(adapter, tiny_llama, reference=reference, samples=samples)
    gguf = helpers.write_gguf(subject.converter.source, tiny_llama, tmp_path / "m.gguf", contract=subject.contract)
    parity = prove_f16(subject, gguf)
    assert parity.proven
    assert "too little" in next(check for check in parity.warnings if "survived" in check.name).note


@pytest.mark.slow
def test_a_model_that_was_trained_whole_is_compared_with_itself_and_with_its_base(
    tiny_llama, llama_adapter, tmp_path, samples, helpers
):
    whole = tmp_path / "whole"
    write_merged(llama_adapter, tiny_llama, whole)
    for known in (True, False):
        reference = helpers.Whole(whole, tiny_llama if known else None)
        subject = TrainedModel.open(None, whole, reference=reference, samples=samples)
        right = helpers.write_gguf(subject.converter.source, whole, tmp_path / "r.gguf", contract=subject.contract)
        wrong = helpers.write_gguf(open_base(tiny_llama), whole, tmp_path / "w.gguf", contract=subject.contract)
        parity = prove_f16(subject, right)
        assert parity.proven and subject.contract
        assert ("training survived in the f16 file" in {check.name for check in parity.checks}) == known
        assert set(parity.losses) - {"final"} == {"adapter", "merged"} | ({"base"} if known else set())
        assert "f16 divergence" in failures(prove_f16(subject, wrong))


def test_a_truncated_file_fails(subject, good, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(good.read_bytes()[:-1000])
    assert failures(prove_f16(subject, tmp_path / "cut.gguf")) == {"f16 file is complete"}


def test_a_wrong_contract_fails(subject, good):
    wanted = subject.contract
    for change, names in [
        ({"template": wanted.template + " "}, {"f16 chat template", "rendered prompts"}),
        ({"terminators": (0,)}, {"f16 end of turn"}),
        ({"bos": "tokenizer"}, {"f16 adds a first token"}),
    ]:
        changed = dataclasses.replace(subject, contract=dataclasses.replace(wanted, **change))
        assert failures(prove_f16(changed, good)) == names


def test_another_cut_of_the_text_fails(subject, tmp_path):
    gguf = vocabulary_with(lambda words: {"pre": "qwen2"}, subject, tmp_path / "m.gguf")
    assert failures(prove_f16(subject, gguf)) == {"token ids", "vocabulary of the file"}


def test_a_damaged_final_file_fails(subject, good, llama_adapter, tmp_path, helpers):
    wrong = sources(subject.base, llama_adapter)
    for fault, expected in [
        ("adapter dropped", "training survived in the final file"),
        ("merged twice", "training survived in the final file"),
        ("one tensor zeroed", "q8_0 divergence from f16"),
        ("one sign wrong", "q8_0 divergence from f16"),
    ]:
        final = helpers.write_gguf(wrong[fault], subject.base, tmp_path / "q.gguf", "q8_0", subject.contract)
        assert expected in failures(prove(subject, good, final, "q8_0")), fault


@pytest.mark.parametrize("quantization", [*SELDOM, "q4_k_m"])
def test_quantised_files_are_proven(quantization, subject, good, tmp_path):
    seen = []
    quantize(good, tmp_path / "q.gguf", quantization, notify=seen.append)
    assert seen[-1].done == seen[-1].total == 21
    parity = prove(subject, good, tmp_path / "q.gguf", quantization)
    assert parity.proven, parity.failures
    assert any(name in parity.types for name in ("Q4_K", "Q5_K", "Q6_K"))


def test_without_a_reference_the_tensors_are_compared(subject, good, llama_adapter, tmp_path, helpers):
    alone = dataclasses.replace(subject, reference=None, samples=())
    parity = prove_f16(alone, good)
    assert parity.proven
    assert parity.compared_with == "tensors"
    assert parity.tokens > 100
    for fault in ("adapter dropped", "one sign wrong"):
        source = sources(subject.base, llama_adapter)[fault]
        gguf = helpers.write_gguf(source, subject.base, tmp_path / "m.gguf", contract=subject.contract)
        assert failures(prove_f16(alone, gguf)) == {"f16 tensors"}


class Ending:
    """The reference, with answers that end."""

    def __init__(self, inner):
        self.inner = inner

    def logits(self, tokens, *, adapter=True):
        return self.inner.logits(tokens, adapter=adapter)

    def generate(self, prompt, *, limit, stop, adapter=True, on_token=None):
        assert limit == GENERATED
        return [5, *stop[:1]]


@pytest.mark.slow
def test_endless_answers_fail_only_if_the_trained_model_ends_its_own(subject, good, llama_reference, asking):
    subject = dataclasses.replace(subject, samples=asking)
    before = llama_reference.generated
    parity = prove_f16(subject, good)
    assert [check.name for check in parity.warnings] == ["answers end"], "a random model never stops"
    assert llama_reference.generated == before + 3
    ending = dataclasses.replace(subject, reference=Ending(llama_reference))
    assert failures(prove_f16(ending, good)) == {"answers end"}


def test_samples_that_were_tokenised_otherwise_are_a_warning(subject, good, samples):
    assert prove_f16(dataclasses.replace(subject, samples=[Sample("a", (81,), (0,), ())]), good).tokens > 100
    strange = [Sample(samples[0].text, (1, *samples[0].tokens), (0, *samples[0].trained), ())]
    parity = prove_f16(dataclasses.replace(subject, samples=strange), good)
    assert parity.proven
    assert "training tokens" in {check.name for check in parity.warnings}


def test_rslora_and_qwen2_are_proven(tiny_qwen2, qwen2_adapter, samples, tmp_path, helpers):
    reference = helpers.Reference(tiny_qwen2, qwen2_adapter)
    subject = TrainedModel.open(qwen2_adapter, tiny_qwen2, reference=reference, samples=samples)
    gguf = helpers.write_gguf(subject.converter.source, tiny_qwen2, tmp_path / "m.gguf", contract=subject.contract)
    assert prove_f16(subject, gguf).proven


def test_a_contract_without_chat_needs_no_template(subject, tiny_llama, llama_adapter, tmp_path, helpers):
    plain = shutil.copytree(llama_adapter, tmp_path / "lora")
    (plain / "contract.json").unlink()
    raw = Contract("", "template", (), ())
    for contract in (None, raw):
        gguf = helpers.write_gguf(subject.converter.source, tiny_llama, tmp_path / "m.gguf", contract=contract)
        assert prove_f16(dataclasses.replace(subject, contract=contract), gguf).proven


def test_the_measures():
    random = np.random.default_rng(0)
    base = random.normal(size=(40, 50)).astype(np.float32) * 2
    step = random.normal(size=(40, 50)).astype(np.float32) * 0.05
    strengths = []
    for times in (0.0, 0.5, 1.0, 2.0):
        strength = Strength()
        strength.add(base, base + step, base + times * step + 3)  # a constant changes no probability
        strengths.append(strength.value)
    assert strengths == pytest.approx([0, 0.5, 1, 2], abs=1e-4)
    moved = strength.moved.mean
    assert strength.weak and strength.limit() == 0.5
    strong = Strength()
    strong.add(base, base + 10 * step, base)
    assert not strong.weak and strong.limit() == 0.1
    assert [strength.limit(moved * times) for times in (0.1, 1, 4)] == pytest.approx([0.25, 0.25, 0.5])
    assert strength.limit(moved * 100) == 1
    divergence = Divergence()
    divergence.add(base, base + 1)
    assert (divergence.mean, divergence.top1) == pytest.approx((0, 1), abs=1e-7)
    loss = Loss()
    loss.add(np.zeros((4, 50), np.float32), [1, 2, 3, 4], [0, 1, 0, 1])
    assert (loss.mean, loss.count) == (pytest.approx(np.log(50)), 2)


def test_rows_that_begin_alike_are_one_observation_there():
    rows = [(5, 6, 7), (5, 6, 8, 9), (1, 6, 7), (5, 6, 7, 1)]
    assert [places.tolist() for places in distinct_positions(rows)] == [[0, 1, 2], [2, 3], [0, 1, 2], [3]]
    assert [places.tolist() for places in distinct_positions([(5, 6), (5, 6)])] == [[0, 1], []]


def test_a_choice_is_turned_round_only_beyond_the_noise_of_its_place():
    random = np.random.default_rng(0)
    reference = random.normal(size=(50, 4000)).astype(np.float32)
    noise = random.normal(size=reference.shape).astype(np.float32) * 0.01
    reference[7, 3] = reference[7].max() + 0.02  # a near-tie, wider than the noise of a single token
    second = np.argsort(reference[7])[-2]
    reference[7, second] = reference[7, 3] - 0.03
    other = reference + noise
    other[7, second] = other[7, 3] + 0.001
    choices = FirstChoices()
    choices.add(reference, other)
    assert choices.turned == 0 and 1 < choices.ratios[7] < 8
    wide = other.copy()
    reference[7, second] -= 0.5
    choices = FirstChoices()
    choices.add(reference, wide)
    assert choices.turned == 1, "a clear preference was turned round"
    noisy = wide.copy()
    noisy[7] += random.normal(size=4000).astype(np.float32)
    noisy[7, second] = noisy[7].max() + 1
    choices = FirstChoices()
    choices.add(reference, noisy)
    assert choices.turned == 1, "noise far above that of other places is no excuse"


def test_one_near_tie_in_what_all_rows_begin_with_does_not_refuse_a_right_file(subject, good, samples):
    """Two best tokens closer than float16 can tell apart, in the shared first places of every row."""
    shared = samples[0].tokens[:4]

    class NearTie:
        def __init__(self, inner):
            self.inner = inner

        def logits(self, tokens, *, adapter=True):
            found = np.array(self.inner.logits(tokens, adapter=adapter))
            order = np.argsort(found[2])
            gap = found[2, order[-1]] - found[2, order[-2]]
            found[2, order[-2]] += gap + 1e-5  # the other of the two is now first, by a hair
            return found

    same = [dataclasses.replace(sample, tokens=(*shared, *sample.tokens[4:])) for sample in samples]
    near = dataclasses.replace(subject, reference=NearTie(subject.reference), samples=same)
    found = {check.name: check for check in prove_f16(near, good).checks}["f16 first choices"]
    distinct = sum(len(places) for places in distinct_positions(sample.tokens for sample in same))
    assert found.note.startswith(f"of {distinct} positions") and distinct < sum(len(s.tokens) for s in same)
    assert found.passed


def vocabulary_with(change, subject, target):
    words = read_vocabulary(subject.base, subject.converter.vocabulary_size, subject.contract)
    subject.converter.write(target, dataclasses.replace(words, **change(words)), "changed")
    return target


def swapped(words):
    tokens = list(words.tokens)
    tokens[40000], tokens[40001] = tokens[40001], tokens[40000]
    return {"tokens": tokens}


def test_two_tokens_swapped_in_the_vocabulary_fail(subject, tmp_path):
    """Tokens that no text of the proof has, so that every other check passes."""
    gguf = vocabulary_with(swapped, subject, tmp_path / "m.gguf")
    parity = prove_f16(subject, gguf)
    assert failures(parity) == {"vocabulary of the file"}
    assert "tokens[40000]" in parity.failures[0].note


@pytest.mark.parametrize("name, value", [("eos", 5), ("template", "{{ messages }}"), ("add_bos", True)])
def test_another_end_template_or_start_fails_with_a_contract_and_without(name, value, subject, tmp_path):
    for contract in (subject.contract, None):
        alone = dataclasses.replace(subject, contract=contract)
        words = read_vocabulary(subject.base, subject.converter.vocabulary_size, contract)
        change = {"ids": {**words.ids, "eos": value}} if name == "eos" else {name: value}
        gguf = vocabulary_with(lambda _, change=change: change, alone, tmp_path / "m.gguf")
        assert failures(prove_f16(alone, gguf)), (name, contract is None)


def swapped_heads(value, size=64):
    heads = value.reshape(-1, size, value.shape[1]).copy()
    heads[[0, 1]] = heads[[1, 0]]
    return heads.reshape(value.shape)


def without_a_layer(deltas, layer):
    return {name: delta for name, delta in deltas.items() if f"layers.{layer}." not in name}


def damages(base, adapter):
    deltas = lora.read(adapter)
    merged = MergedWeights(base, deltas)
    one = next(name for name in deltas if "layers.0.self_attn.v_proj" in name)
    return {
        "one layer's adapter left out": MergedWeights(base, without_a_layer(deltas, 1)),
        "one matrix's adapter left out": MergedWeights(base, {name: d for name, d in deltas.items() if name != one}),
        "alpha doubled": MergedWeights(base, scaled(deltas, 2)),
        "alpha doubled in one matrix": MergedWeights(base, deltas | scaled({one: deltas[one]}, 2)),
        "one tensor transposed": Changed(merged, only("layers.0.self_attn.o_proj", np.transpose)),
        "one head swapped": Changed(merged, only("layers.1.self_attn.q_proj", swapped_heads)),
        "two rows of the embedding swapped": Changed(merged, only("embed_tokens", lambda rows: swapped_rows(rows))),
    }


def swapped_rows(rows):
    rows = rows.copy()
    rows[[40000, 40001]] = rows[[40001, 40000]]
    return rows


@pytest.fixture(scope="module")
def faint(tiny_llama, samples, helpers, tmp_path_factory):
    """An adapter that changes the model so little that its logits alone would not show a part of it missing."""
    adapter = helpers.save_adapter(tiny_llama, tmp_path_factory.mktemp("faint") / "lora", strength=4e-3)
    reference = helpers.Reference(tiny_llama, adapter)
    return adapter, TrainedModel.open(adapter, tiny_llama, reference=reference, samples=samples)


@pytest.mark.parametrize("fault", ["one layer's adapter left out", "alpha doubled", "one head swapped"])
def test_damage_to_a_strong_adapter_shows_in_what_the_model_computes(fault, subject, llama_adapter, tmp_path, helpers):
    source = damages(subject.base, llama_adapter)[fault]
    gguf = helpers.write_gguf(source, subject.base, tmp_path / "m.gguf", contract=subject.contract)
    found = failures(prove_f16(subject, gguf))
    assert "f16 tensors" in found and found & {"f16 divergence", "training survived in the f16 file"}


def test_damage_to_a_faint_adapter_shows_in_the_tensors(faint, tmp_path, helpers):
    adapter, subject = faint
    for fault, source in damages(subject.base, adapter).items():
        gguf = helpers.write_gguf(source, subject.base, tmp_path / "m.gguf", contract=subject.contract)
        assert "f16 tensors" in failures(prove_f16(subject, gguf)), fault
    right = helpers.write_gguf(subject.converter.source, subject.base, tmp_path / "m.gguf", contract=subject.contract)
    assert prove_f16(subject, right).proven


@pytest.mark.parametrize("quantization", ["q8_0", "q4_k_m"])
def test_a_matrix_without_its_adapter_is_found_in_a_quantised_file(
    quantization, subject, good, llama_adapter, tmp_path, helpers
):
    def final(source):
        plain = helpers.write_gguf(source, subject.base, tmp_path / "p.gguf", contract=subject.contract)
        if quantization == "q8_0":
            return helpers.write_gguf(source, subject.base, tmp_path / "q.gguf", "q8_0", subject.contract)
        quantize(plain, tmp_path / "q.gguf", quantization)
        return tmp_path / "q.gguf"

    wrong = damages(subject.base, llama_adapter)
    for fault in ("one matrix's adapter left out", "alpha doubled in one matrix"):
        parity = prove(subject, good, final(wrong[fault]), quantization)
        assert "adapter in each matrix" in failures(parity), fault
        assert "blk.0.attn_v.weight" in parity.failures[0].note
    parity = prove(subject, good, final(subject.converter.source), quantization)
    assert parity.proven, parity.failures
    shares = next(check for check in parity.checks if check.name == "adapter in each matrix")
    assert 0.8 < shares.measured[0] < shares.measured[1] < 1.2 and shares.note.startswith("14 of 14")


def test_a_base_with_no_more_bits_than_the_format_is_no_reason_to_refuse(subject, good, samples, tmp_path, helpers):
    """Weights unpacked from 4 bits are drawn back onto their grid, and a small adapter with them."""
    quantize(good, tmp_path / "q.gguf", "q4_k_m")
    base = shutil.copytree(subject.base, tmp_path / "base")
    packed = GgufFile(tmp_path / "q.gguf")
    tensors = dict(load_file(base / "model.safetensors"))
    for planned in subject.converter.plan:
        if planned.source in tensors and "attn_q" not in planned.name and "attn_k" not in planned.name:
            tensors[planned.source] = packed.array(planned.name).astype(np.float16)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    adapter = helpers.save_adapter(base, tmp_path / "lora", strength=0.01)
    on_grid = TrainedModel.open(adapter, base, reference=helpers.Reference(base, adapter), samples=samples)
    plain = helpers.write_gguf(on_grid.converter.source, base, tmp_path / "p.gguf", contract=on_grid.contract)
    quantize(plain, tmp_path / "f.gguf", "q4_k_m")
    parity = prove(on_grid, plain, tmp_path / "f.gguf", "q4_k_m")
    shares = next(check for check in parity.checks if check.name == "adapter in each matrix")
    assert shares.passed and "small changes are rounded away" in shares.note, shares
