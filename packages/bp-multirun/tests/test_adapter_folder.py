"""PEFT folders, from real models and back: invariants 26 and 27."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM

from bp_core.adapter_config import CONFIG, WEIGHTS, AdapterConfig
from bp_core.errors import AdapterUnusable, MergeRefused
from bp_multirun import Adapter, Pair, deploy, fold, read_adapter, start, write_adapter
from bp_multirun.tensor_file import narrowed

WORDS = torch.tensor([[5, 17, 200, 31, 8]])
PLAIN = dict(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
PREFIX = "base_model.model."


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(folder, seed=0, **changes):
    """A real model with an adapter that does something."""
    torch.manual_seed(seed)
    model = get_peft_model(base(folder), LoraConfig(**PLAIN | changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(WORDS).logits


def tensors(factors):
    """As PEFT's state dict."""
    return {
        f"{PREFIX}{name}.lora_{factor}.weight": torch.from_numpy(np.array(array))
        for name, pair in factors.items()
        for factor, array in (("A", pair.a), ("B", pair.b))
    }


def put(model, factors):
    """Load factors into a live adapter, and every one of them arrives."""
    found = set_peft_model_state_dict(model, tensors(factors))
    assert not found.unexpected_keys and not [key for key in found.missing_keys if "lora_" in key]


@pytest.fixture(scope="session")
def made(tiny, tmp_path_factory):
    """Three adapters of one model, saved by PEFT."""
    folder = tmp_path_factory.mktemp("made")
    for seed in range(3):
        adapted(tiny, seed).save_pretrained(folder / str(seed))
    return folder


@pytest.fixture
def folders(made, tmp_path):
    """Copies of them, to be changed."""
    return [shutil.copytree(made / str(seed), tmp_path / str(seed)) for seed in range(3)]


@pytest.fixture
def state(folders):
    state = None
    for folder in folders:
        state = fold(state, read_adapter(folder).factors)
    return state


def test_what_peft_saved_is_what_the_model_holds(tiny, tmp_path):
    """27."""
    model = adapted(tiny)
    model.save_pretrained(tmp_path)
    read = read_adapter(tmp_path)
    live = get_peft_model_state_dict(model)
    assert read.dtype == "float32" and tensors(read.factors).keys() == live.keys()
    assert len(read.factors) == 3 * 7 and "model.layers.0.self_attn.q_proj" in read.factors
    assert all(torch.equal(tensor, live[key]) for key, tensor in tensors(read.factors).items())
    pair = read.factors["model.layers.0.self_attn.q_proj"]
    assert not pair.a.flags.owndata and not pair.a.flags.writeable  # a view into the file


def test_a_stage_starts_in_a_live_model(tiny, folders, state):
    """27."""
    model = adapted(tiny, 9)
    wanted = start(state)
    put(model, wanted)
    live = get_peft_model_state_dict(model)
    assert all(torch.equal(tensor, live[key]) for key, tensor in tensors(wanted).items())
    last = PeftModel.from_pretrained(base(tiny), folders[-1])
    put(last, start(state, init_a="keep"))
    assert torch.equal(logits(last), logits(PeftModel.from_pretrained(base(tiny), folders[-1])))


@pytest.mark.parametrize(
    "changes", [{}, dict(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3})]
)
def test_the_merged_adapter_is_the_merged_model(tiny, tmp_path, changes):
    """26."""
    state = None
    for seed in range(3):
        adapted(tiny, seed, **changes).save_pretrained(tmp_path / str(seed))
        read = read_adapter(tmp_path / str(seed))
        state = fold(state, read.factors)
    memory = adapted(tiny, 9, **changes)
    put(memory, deploy(state))
    (tmp_path / "final").mkdir()
    write_adapter(tmp_path / "final", Adapter(read.config, deploy(state), "float32"))
    final = PeftModel.from_pretrained(base(tiny), tmp_path / "final")
    assert torch.equal(logits(final), logits(memory))
    assert not torch.equal(logits(final), logits(PeftModel.from_pretrained(base(tiny), tmp_path / "2")))
    for name, pair in read_adapter(tmp_path / "final").factors.items():
        np.testing.assert_array_equal(pair.a, state.a[name])
        np.testing.assert_array_equal(pair.b, state.b_merged[name])
        assert read.config.scale(name) == final.get_submodule(f"base_model.model.{name}").scaling["default"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_reading_and_writing_gives_the_same_bytes(folders, dtype):
    kept = {key: tensor.to(getattr(torch, dtype)) for key, tensor in load_file(folders[0] / WEIGHTS).items()}
    save_file(kept, folders[0] / WEIGHTS, {"format": "pt"})
    read = read_adapter(folders[0])
    assert read.dtype == dtype
    write_adapter(folders[1], read)
    assert (folders[1] / CONFIG).read_bytes() == (folders[0] / CONFIG).read_bytes()
    assert load_file(folders[1] / WEIGHTS).keys() == kept.keys()
    for key, tensor in load_file(folders[1] / WEIGHTS).items():
        assert tensor.dtype == kept[key].dtype and torch.equal(tensor, kept[key])
    turned = Adapter(read.config, dict(reversed(read.factors.items())), dtype)
    write_adapter(folders[2], turned)
    assert (folders[1] / WEIGHTS).read_bytes() == (folders[2] / WEIGHTS).read_bytes()


@given(arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, min_value=-(2.0**127), max_value=2.0**127)))
def test_bfloat16_is_rounded_as_by_torch(values):
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy()
    np.testing.assert_array_equal(narrowed(values, "BF16").view(np.int16), expected)


def test_every_half_way_case_of_bfloat16_is_rounded_as_by_torch():
    bits = (np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] + np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], "u4")
    values = bits.reshape(-1).view(np.float32)
    values = values[np.abs(values) < 3.3e38]
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy()
    np.testing.assert_array_equal(narrowed(values, "BF16").view(np.int16), expected)


def test_a_value_too_large_for_half_precision_is_refused(tmp_path):
    pair = Pair(np.ones((1, 2), np.float32), np.full((3, 1), 70000, np.float32))
    with pytest.raises(MergeRefused, match="F16"):
        write_adapter(tmp_path, Adapter(AdapterConfig(1, 1.0), {"x": pair}, "float16"))


def test_mixed_types_are_read_as_float32(folders):
    mixed = {key: t.bfloat16() if "lora_A" in key else t for key, t in load_file(folders[0] / WEIGHTS).items()}
    save_file(mixed, folders[0] / WEIGHTS)
    assert read_adapter(folders[0]).dtype == "float32"


OTHERS = {
    "use_dora": dict(use_dora=True),
    "modules_to_save": dict(modules_to_save=["lm_head"], target_modules=["q_proj"]),
    "bias='all'": dict(bias="all"),
    "bias='lora_only'": dict(bias="lora_only"),
    "lora_bias": dict(lora_bias=True),
    "trainable_token_indices": dict(trainable_token_indices=[3, 4]),
    "embed_tokens": dict(target_modules=["embed_tokens"]),
    "init_lora_weights='pissa'": dict(init_lora_weights="pissa"),
    "init_lora_weights='pissa_niter_4'": dict(init_lora_weights="pissa_niter_4"),
    "init_lora_weights='olora'": dict(init_lora_weights="olora"),
    "init_lora_weights='mica'": dict(init_lora_weights="mica"),
}


@pytest.mark.filterwarnings("ignore")  # of PEFT, about these kinds
@pytest.mark.parametrize("reason", OTHERS)
def test_adapters_that_are_more_than_two_factors_are_refused(tiny, tmp_path, reason):
    adapted(tiny, **OTHERS[reason]).save_pretrained(tmp_path)
    with pytest.raises(AdapterUnusable, match=reason):
        read_adapter(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal"])
def test_starts_that_leave_the_base_alone_are_read(tiny, tmp_path, init):
    adapted(tiny, init_lora_weights=init).save_pretrained(tmp_path)
    assert len(read_adapter(tmp_path).factors) == 21


@pytest.mark.parametrize("init", ["corda", "loftq", "lora_ga", "something_new"])
def test_starts_that_need_data_are_refused_by_their_name(folders, init):
    edit(folders[0], init_lora_weights=init)
    with pytest.raises(AdapterUnusable, match=init):
        read_adapter(folders[0])


class Parameters(torch.nn.Module):
    """Weights of experts, which are no linear layers, and a convolution."""

    def __init__(self):
        super().__init__()
        self.mlp = torch.nn.Module()
        self.mlp.experts = torch.nn.Parameter(torch.ones(3, 4, 4))
        self.convolution = torch.nn.Conv1d(4, 4, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("reason", "targets"),
    [
        ("target_parameters", dict(target_parameters=["mlp.experts"])),
        ("convolution", dict(target_modules=["convolution"])),
    ],
)
def test_parameters_and_convolutions_are_refused(tmp_path, reason, targets):
    get_peft_model(Parameters(), LoraConfig(r=2, **targets)).save_pretrained(tmp_path)
    with pytest.raises(AdapterUnusable, match=reason):
        read_adapter(tmp_path)


def test_another_kind_of_adapter_is_refused(tiny, tmp_path):
    get_peft_model(base(tiny), IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(AdapterUnusable, match="IA3"):
        read_adapter(tmp_path)


def edit(folder, **changes):
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(config | changes), encoding="utf-8")


def with_tensors(change):
    def damage(folder):
        found = load_file(folder / WEIGHTS)
        save_file(change(found), folder / WEIGHTS)

    return damage


KEY = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_%s.weight"
DAMAGES = {
    "config.json is missing": lambda folder: (folder / CONFIG).unlink(),
    "safetensors is missing": lambda folder: (folder / WEIGHTS).unlink(),
    "settings cannot be read": lambda folder: (folder / CONFIG).write_text("{"),
    "settings say 8": lambda folder: edit(folder, r=8),
    "settings say 2": lambda folder: edit(folder, rank_pattern={"q_proj": 2}),
    "truncated": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
    "longer than the file": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:99]),
    "weights are truncated": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "only lora_A": with_tensors(lambda found: {key: t for key, t in found.items() if key != KEY % "B"}),
    "lm_head.weight is no factor": with_tensors(lambda found: found | {"lm_head.weight": torch.ones(2, 2)}),
    "share no rank": with_tensors(lambda found: found | {KEY % "B": torch.ones(64, 3)}),
    "no larger than the inputs": with_tensors(lambda found: {KEY % "A": torch.ones(4, 3), KEY % "B": torch.ones(5, 4)}),
    "holds I64": with_tensors(lambda found: found | {KEY % "B": torch.ones(64, 4, dtype=torch.int64)}),
    "no factors": with_tensors(lambda found: {}),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_damaged_folders_are_refused(folders, reason):
    DAMAGES[reason](folders[0])
    with pytest.raises(AdapterUnusable, match=reason):
        read_adapter(folders[0])


def test_settings_are_equal_where_adapters_can_be_merged(folders):
    config = dict(read_adapter(folders[0]).config.values)
    same = config | dict(lora_dropout=0.5, target_modules=config["target_modules"][::-1], lora_alpha=8.0, revision="x")
    same |= dict(base_model_name_or_path="another")  # whoever knows the base compares it
    assert AdapterConfig.of(same) == AdapterConfig.of(config)
    other = dict(r=5, lora_alpha=9, use_rslora=True, target_modules=["q_proj"], rank_pattern={"q_proj": 1})
    other |= dict(alpha_pattern={"q_proj": 1})
    found = {AdapterConfig.of(config | {name: value}) for name, value in other.items()}
    assert len(found | {AdapterConfig.of(config)}) == len(other) + 1


def test_a_mapped_file_may_be_replaced(folders):
    read = read_adapter(folders[0])
    before = next(iter(read.factors.values())).a.copy()
    shutil.copy(folders[1] / WEIGHTS, folders[0] / "new")
    (folders[0] / "new").replace(folders[0] / WEIGHTS)
    np.testing.assert_array_equal(next(iter(read.factors.values())).a, before)
