"""What an adapter's settings say, and which of them a reader may not pass over."""

import json
import math

import pytest

from bp_core.adapter_config import CONFIG, AdapterConfig
from bp_core.errors import AdapterUnusable

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "init_lora_weights": True, "revision": None}


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        (tmp_path / CONFIG).write_text(json.dumps(PLAIN | changes), encoding="utf-8")
        return tmp_path

    return write


def test_patterns_replace_rank_and_alpha_of_the_modules_whose_names_end_so():
    patterns = dict(rank_pattern={"layers.0.*q_proj": 16}, alpha_pattern={"v_proj": 2})
    config = AdapterConfig.of(PLAIN | patterns)
    assert config.scale() == config.scale("layers.1.q_proj") == 2 and config.scale("layers.1.v_proj") == 0.5
    assert config.rank_of("layers.0.self_attn.q_proj") == 16 and config.scale("layers.0.self_attn.q_proj") == 0.5
    assert AdapterConfig.of(PLAIN | patterns | dict(use_rslora=True)).scale("layers.0.q_proj") == 8 / math.sqrt(16)


def test_what_is_written_again_is_the_whole_file(written):
    assert AdapterConfig.read(written(task_type="X")).values == PLAIN | {"task_type": "X"}


REFUSED = {
    "use_dora=True": dict(use_dora=True),
    "modules_to_save": dict(modules_to_save=["lm_head"]),
    "rank_pattern": dict(rank_pattern={"q": 2}),
    "alpha_pattern": dict(alpha_pattern={"q": 2}),
    "fan_in_fan_out": dict(fan_in_fan_out=True),
    "bias='all'": dict(bias="all"),
    "lora_bias": dict(lora_bias=True),
    "init_lora_weights='pissa'": dict(init_lora_weights="pissa"),
    "use_hyperlora=True, which is not computed here": dict(use_hyperlora=True),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_setting_that_the_reader_does_not_compute_is_refused_by_its_name(reason, written):
    folder = written(**REFUSED[reason])
    with pytest.raises(AdapterUnusable, match=reason):
        AdapterConfig.read(folder)
    (name,) = REFUSED[reason]
    AdapterConfig.read(folder, [name])


BROKEN = {
    "it is a IA3 adapter": dict(peft_type="IA3"),
    "settings cannot be read": dict(r="many"),
    r"settings cannot be read .*float: 'x'": dict(rank_pattern={"q": "x"}),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_is_no_lora_adapter_is_refused(reason, written):
    with pytest.raises(AdapterUnusable, match=reason):
        AdapterConfig.read(written(**BROKEN[reason]))


@pytest.mark.parametrize("text", ["{", "[]", "7", "{}", '{"peft_type": "LORA"}'])
def test_a_file_that_says_nothing_is_refused(text, tmp_path):
    with pytest.raises(AdapterUnusable, match="is missing"):
        AdapterConfig.read(tmp_path)
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(AdapterUnusable, match="settings cannot be read"):
        AdapterConfig.read(tmp_path)
