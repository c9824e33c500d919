import dataclasses
import inspect
import itertools
import math
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_core.clashes import CLASHES
from bp_core.config import TrainConfig
from bp_core.environment import from_environment
from bp_core.errors import BadValue
from bp_core.other_names import OTHER_NAMES
from bp_core.recipe import Recipe
from bp_core.settings import Clash, Panel, Range, Trait, check, idle, known, names, settings


def test_every_setting_has_help():
    assert [setting.name for setting in settings(TrainConfig)] == [
        field.name for field in dataclasses.fields(TrainConfig)
    ]
    assert all(setting.help.endswith(".") for setting in settings(TrainConfig))


def test_a_range_stands_beside_its_setting():
    ranges = {setting.name: setting.range for setting in settings(TrainConfig)}
    assert ranges["dropout"] == Range(0, 0.999) and ranges["steps"] == Range(1) and ranges["model"] is None


def test_what_clashes_with_a_changed_setting_leaves_its_default_alone():
    @dataclasses.dataclass(frozen=True)
    class Drink:
        hot: Annotated[bool, "Hot."] = False
        ice: Annotated[int, "Cubes.", Range(0, 9)] = 2

        def __post_init__(self):
            check(self, [Clash(("hot",), bool, "ice melts", changed="ice")])

    Drink(hot=True)
    with pytest.raises(BadValue, match="ice melts"):
        Drink(hot=True, ice=3)
    with pytest.raises(BadValue, match="between 0 and 9") as caught:
        Drink(hot=True, ice=10)
    assert "melts" not in str(caught.value)


def test_what_may_be_left_open_is_resolved_in_the_recipe_or_into_another_setting():
    into_another = {"epochs", "samples", "lora_preset"}
    left_open = {setting.name for setting in settings(TrainConfig) if setting.default is None}
    assert left_open - into_another <= set(inspect.get_annotations(Recipe))


def test_every_training_setting_has_a_panel_and_those_of_one_panel_stand_together():
    panels = [setting.panel for setting in settings(TrainConfig)]
    assert list(dict.fromkeys(panels)) == [panel for panel in Panel if panel != Panel.STAGES]
    assert [panel for panel, _ in itertools.groupby(panels)] == list(dict.fromkeys(panels))


def test_what_is_declared_beside_a_setting_is_found():
    @dataclasses.dataclass(frozen=True)
    class Oven:
        heat: Annotated[int, "Degrees.", Range(1, 300), Panel.SPEED, Trait.NEEDS | Trait.LOCAL] = 200
        light: Annotated[bool, "On or off."] = False

    heat, light = settings(Oven)
    assert (heat.range, heat.panel, heat.traits) == (Range(1, 300), Panel.SPEED, Trait.NEEDS | Trait.LOCAL)
    assert (light.range, light.panel, light.traits) == (None, Panel.SPEED, Trait.NONE)
    assert names(Oven) == ["heat", "light"] and names(Oven, Trait.LOCAL) == ["heat"]


def test_settings_without_effect_are_those_that_may_not_be_set():
    values = {setting.name: setting.default for setting in settings(TrainConfig)}
    assert {"beta", "gamma", "min_trace"} <= idle(values, CLASHES) and "rank" not in idle(values, CLASHES)
    assert "rank" in idle(values | {"mode": "full"}, CLASHES)


def test_all_problems_are_reported_together():
    with pytest.raises(BadValue) as caught:
        TrainConfig(rank=0, dtype="int3", steps=True, alpha="3", dropout=1.5, seed=None)
    for words in (
        "rank is 0",
        "at least 1",
        "dtype is 'int3'",
        "steps is True",
        "alpha is '3'",
        "between 0 and 0.999",
        "seed",
    ):
        assert words in str(caught.value)


def test_a_misspelt_setting_is_refused_with_the_nearest():
    with pytest.raises(BadValue, match=r"'rnak'.*did you mean 'rank'"):
        known(["model", "rnak"], TrainConfig)
    known(["rank", "steps"], TrainConfig)


@given(rank=st.integers(1, 512), rate=st.floats(1e-9, 1), dropout=st.floats(0, 0.9))
def test_sensible_values_pass_and_whole_numbers_serve_as_fractions(rank, rate, dropout):
    config = TrainConfig(rank=rank, learning_rate=rate, dropout=dropout, alpha=rank, epochs=1)
    assert (config.rank, config.alpha) == (rank, rank)


def test_numbers_that_are_not_numbers_are_refused():
    with pytest.raises(BadValue, match="learning_rate"):
        TrainConfig(learning_rate=float("nan"))
    with pytest.raises(BadValue, match="steps"):
        TrainConfig(steps=1.5)


def test_what_does_not_go_together_is_reported_with_the_rest():
    with pytest.raises(BadValue) as caught:
        TrainConfig(init="orthogonal", rank=5, dropout=2, lora_preset="quality", patience=2)
    for words in ("must be even", "dropout", "lora_preset and rank", "patience is set, but there is nothing"):
        assert words in str(caught.value)
    with pytest.raises(BadValue, match=r"lora_preset is 'best', but must be one of fast, balanced, quality"):
        TrainConfig(lora_preset="best")


def test_a_preset_names_a_rank():
    assert [TrainConfig(lora_preset=name).lora_rank for name in ("fast", "balanced", "quality")] == [16, 32, 256]
    assert TrainConfig().lora_rank == 16 and TrainConfig(rank=4).lora_rank == 4
    assert TrainConfig(lora_preset="quality", rank=256).lora_rank == 256
    with pytest.raises(BadValue, match="dora"):
        TrainConfig(init="pissa", dora=True)
    with pytest.raises(BadValue, match="rank is 'high'"):
        TrainConfig(init="orthogonal", rank="high")
    TrainConfig(init="orthogonal", rank=6, dora=True)


def test_float8_products_need_a_frozen_16_bit_base():
    for mode in ("full", "qlora", "lora-8bit"):
        with pytest.raises(BadValue, match="only mode lora has"):
            TrainConfig(fp8=True, mode=mode)
    TrainConfig(fp8=True, dora=True, init="orthogonal")


def test_starts_from_the_base_need_it_in_full_precision():
    for mode in ("qlora", "lora-8bit"):
        with pytest.raises(BadValue, match="full precision"):
            TrainConfig(mode=mode, init="olora")
        TrainConfig(mode=mode, init="orthogonal", dora=True)


def test_what_python_people_give_for_text_and_numbers_is_taken(tmp_path):
    np = pytest.importorskip("numpy")
    config = TrainConfig(
        output=tmp_path, target_modules=["q_proj", "v_proj"], report_to=("wandb", "mlflow"),
        columns={"prompt": "question", "completion": "reply"}, steps=np.int64(5), learning_rate=np.float32(0.5),
    )  # fmt: skip
    assert config.output == str(tmp_path) and config.target_modules == "q_proj,v_proj"
    assert config.report_to == "wandb,mlflow" and config.columns == "prompt=question,completion=reply"
    assert (config.steps, config.learning_rate) == (5, 0.5) and type(config.steps) is int
    with pytest.raises(BadValue, match="model"):
        TrainConfig(model=["a", "b"])


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_number_that_is_not_finite_is_refused(value):
    with pytest.raises(BadValue, match=r"epochs is (inf|nan), but must be a finite number"):
        TrainConfig(epochs=value)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("lr", "learning_rate"), ("LR", "learning_rate"), ("lora_alpha", "alpha"), ("output_dir", "output"),
     ("max_seq_length", "max_length"), ("num_train_epochs", "epochs"), ("r", "rank"), ("Rank", "rank")],
)  # fmt: skip
def test_the_names_of_other_trainers_lead_to_ours(name, ours):
    with pytest.raises(BadValue, match=f"did you mean {ours!r}"):
        known({name: 1}, TrainConfig)


def test_the_names_of_other_trainers_lead_to_settings_that_exist():
    here = {setting.name for setting in settings(TrainConfig)}
    assert set(OTHER_NAMES.values()) - here == {"quantization"} and not OTHER_NAMES.keys() & here


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("none", None)], ids=["a number", "left open"])
def test_a_variable_means_what_the_option_means(monkeypatch, text, value):
    monkeypatch.setenv("BACKPROPAGATE_TRAIN_STEPS", text)
    monkeypatch.setenv("BACKPROPAGATE_TRAIN_PACKING", "1")
    monkeypatch.delenv("BACKPROPAGATE_TRAIN_REPORT_TO", raising=False)
    assert from_environment("train", TrainConfig) == {"steps": value, "packing": True}


@pytest.mark.parametrize("text", ["many", "0", "2.5"])
def test_a_bad_variable_is_named(monkeypatch, text):
    monkeypatch.setenv("BACKPROPAGATE_TRAIN_STEPS", text)
    with pytest.raises(BadValue, match="environment variable BACKPROPAGATE_TRAIN_STEPS is"):
        from_environment("train", TrainConfig)
