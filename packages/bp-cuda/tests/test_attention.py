"""Each kind of attention that can be asked for: the same loss and gradients, packed and alone; or a refusal."""

import numpy as np
import pytest
import torch
from tiny_models import batch, opened, recipe, save_tiny

from bp_core.config import TrainConfig
from bp_core.errors import BadValue, ModelUnusable, PackageMissing
from bp_core.examples import Batch
from bp_core.rail import Job
from bp_cuda import attention, requirements
from bp_cuda.rail import CpuRail, CudaRail

FLASH = "flash-attention-2"


def moved(folder, **changes):
    """A rail whose adapter changes what the model says."""
    rail = opened(folder, **changes)
    for index, parameter in enumerate(rail.parameters.values()):
        torch.manual_seed(index)
        parameter.data.normal_(std=0.05)
    return rail


def gradients(rail, batches):
    loss = sum(rail.accumulate(part, 0.1) for part in batches)
    return loss, torch.cat([parameter.grad.flatten() for parameter in rail.parameters.values()])


def alone(whole):
    ends = np.cumsum(whole.lengths)
    rows = [slice(end - length, end) for end, length in zip(ends, whole.lengths, strict=True)]
    return [Batch(whole.tokens[row], whole.trained[row], [row.stop - row.start]) for row in rows]


@pytest.mark.parametrize("family", ["mistral", "gemma2", "qwen3_5_text"])
def test_plain_products_give_what_torchs_own_attention_gives(family, tmp_path):
    folder = save_tiny(tmp_path, family)
    found = [
        gradients(moved(folder, attention=kind), parts)
        for kind, parts in (("auto", [batch()]), ("eager", [batch()]), ("eager", alone(batch())))
    ]
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        assert (gradient - found[0][1]).norm() < 1e-4 * found[0][1].norm()


def test_what_is_asked_for_is_what_computes(tiny, tmp_path):
    used = {kind: opened(tiny, attention=kind).model.config._attn_implementation for kind in ("auto", "sdpa", "eager")}
    assert used == {"auto": attention.NAME, "sdpa": attention.NAME, "eager": attention.EAGER}
    linear = save_tiny(tmp_path, "qwen3_5_text")  # one example at a time
    used = {kind: opened(linear, attention=kind).model.config._attn_implementation for kind in ("sdpa", "eager")}
    assert used == {"sdpa": "sdpa", "eager": "eager"}


def test_plain_products_see_no_neighbour_and_drop_what_they_should(tiny):
    rail, b, changed = moved(tiny, attention="eager"), batch((8, 12)), batch((8, 12))
    changed.tokens[:8] = changed.tokens[:8][::-1]
    changed.trained[:8] = b.trained[:8] = False
    assert rail.evaluate(b) == rail.evaluate(changed)
    query, key = torch.ones(1, 2, 40, 4), torch.ones(1, 1, 40, 4)
    dropped = attention._attend_eagerly(None, query, key, key, None, dropout=0.5)[0]
    assert {0.0, 2.0} & set(dropped[0, 0].flatten().tolist())  # of the one value it may see, all or nothing


@pytest.mark.parametrize("family", ["gpt_oss", "bloom"])
def test_a_model_without_that_attention_is_refused_by_name(family, tmp_path):
    with pytest.raises(ModelUnusable, match="ForCausalLM has no attention sdpa") as caught:
        opened(save_tiny(tmp_path, family), attention="sdpa")
    assert "auto" in caught.value.fix


def test_flash_attention_is_refused_before_anything_loads(tmp_path, monkeypatch):
    wanted = recipe(attention=FLASH, dtype="bfloat16")
    with pytest.raises(BadValue, match=r"capability 8\.0 or more, and there is none"):
        CpuRail().open(Job(tmp_path / "nowhere", recipe=wanted))
    with pytest.raises(BadValue, match=r"this one has 7\.5"):
        requirements.check(TrainConfig(attention=FLASH), "cuda", (7, 5))
    with pytest.raises(BadValue, match="16 bits"):
        TrainConfig(attention=FLASH, dtype="float32")
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(PackageMissing, match="needs flash-attn") as caught:
        requirements.check(TrainConfig(attention=FLASH), "cuda", (8, 0))
    assert "pip install flash-attn" in caught.value.fix


def test_flash_attention_is_told_where_examples_end():
    told = attention.borders(attention.FLASH, np.array([3, 5]), torch.device("cpu"))
    assert told["cu_seq_lens_q"].tolist() == [0, 3, 8] and told["cu_seq_lens_k"].dtype == torch.int32
    assert told["max_length_q"] == told["max_length_k"] == 5
    assert attention.borders("sdpa", [3, 5], torch.device("cpu")) == {}


@pytest.mark.gpu
def test_on_a_card_flash_attention_gives_what_torchs_own_gives(tmp_path):
    pytest.importorskip("flash_attn")
    folder, found = save_tiny(tmp_path), {}
    for kind in ("auto", FLASH):
        rail = CudaRail()
        rail.open(Job(folder, recipe=recipe(attention=kind, dtype="bfloat16"), dtype="bfloat16"))
        assert rail.separable and (rail.model.config._attn_implementation == attention.FLASH) == (kind == FLASH)
        found[kind] = gradients(rail, [batch()])
    (loss, gradient), (other, theirs) = found.values()
    assert other == pytest.approx(loss, rel=1e-2)
    assert torch.nn.functional.cosine_similarity(gradient, theirs, dim=0) > 0.99
