"""Mode auto: the best that fits the free memory of a card, the reason beside it, and a refusal of what cannot fit."""

from dataclasses import replace

import pytest

from bp_core.config import TrainConfig
from bp_core.errors import BadValue, DoesNotFit
from bp_core.rail import Probe
from bp_plan.defaults import for_machine
from bp_plan.fitting import misfit
from bp_plan.memory import GIB
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo, full_rows

CARDS = (6, 8, 12, 16, 24, 32, 48, 80)
LENGTHS = (512, 1024, 2048, 4096, 8192)
DESKTOP = 0.3  # GiB that a desktop has taken before
# Of each preset one line a card, of each line one word a length: the mode (l lora, q qlora), + where layers are
# computed again, and the micro-batch of 8 rows; - where nothing fits.
TABLE = """
smollm2-135m        6  l8   l8   l4   l2   l1
smollm2-135m        8  l8   l8   l4   l2   l1
smollm2-135m       12  l8   l8   l8   l4   l2
smollm2-135m       16  l8   l8   l8   l8   l4
smollm2-135m       24  l8   l8   l8   l8   l4
smollm2-135m       32  l8   l8   l8   l8   l8
smollm2-135m       48  l8   l8   l8   l8   l8
smollm2-135m       80  l8   l8   l8   l8   l8
llama-3.2-1b        6  l2   l1   l+4  l+2  l+1
llama-3.2-1b        8  l4   l2   l1   l1   l+2
llama-3.2-1b       12  l8   l8   l4   l2   l1
llama-3.2-1b       16  l8   l8   l4   l2   l1
llama-3.2-1b       24  l8   l8   l8   l4   l2
llama-3.2-1b       32  l8   l8   l8   l4   l2
llama-3.2-1b       48  l8   l8   l8   l8   l4
llama-3.2-1b       80  l8   l8   l8   l8   l8
smollm3-3b          6  q1   q+4  q+2  q+1  -
smollm3-3b          8  q2   q1   q+4  q+2  q+1
smollm3-3b         12  l2   l1   l+4  l+2  l+1
smollm3-3b         16  l4   l2   l1   l+4  l+2
smollm3-3b         24  l8   l4   l2   l1   l+4
smollm3-3b         32  l8   l8   l4   l2   l1
smollm3-3b         48  l8   l8   l4   l2   l1
smollm3-3b         80  l8   l8   l8   l4   l2
qwen2.5-3b          6  q1   q+4  q+2  q+1  -
qwen2.5-3b          8  q2   q1   q+4  q+2  q+1
qwen2.5-3b         12  l2   l1   l+4  l+2  l+1
qwen2.5-3b         16  l4   l2   l1   l+4  l+2
qwen2.5-3b         24  l8   l4   l2   l1   l+4
qwen2.5-3b         32  l8   l8   l4   l2   l1
qwen2.5-3b         48  l8   l8   l8   l4   l2
qwen2.5-3b         80  l8   l8   l8   l4   l2
llama-3.2-3b        6  q1   q+4  q+2  q+1  -
llama-3.2-3b        8  q2   q1   q1   q+2  q+1
llama-3.2-3b       12  l2   l1   l1   l+2  l+1
llama-3.2-3b       16  l8   l2   l1   l1   l+2
llama-3.2-3b       24  l8   l8   l4   l2   l1
llama-3.2-3b       32  l8   l8   l4   l2   l1
llama-3.2-3b       48  l8   l8   l8   l4   l2
llama-3.2-3b       80  l8   l8   l8   l8   l4
phi-4-mini-3.8b     6  q1   q+4  q+2  q+1  -
phi-4-mini-3.8b     8  q2   q1   q+4  q+2  q+1
phi-4-mini-3.8b    12  l2   l1   l+4  l+2  l+1
phi-4-mini-3.8b    16  l4   l2   l1   l+4  l+2
phi-4-mini-3.8b    24  l8   l4   l2   l1   l+4
phi-4-mini-3.8b    32  l8   l8   l4   l2   l1
phi-4-mini-3.8b    48  l8   l8   l8   l4   l2
phi-4-mini-3.8b    80  l8   l8   l8   l4   l2
qwen3.5-4b          6  q+8  q+8  -    -    -
qwen3.5-4b          8  q+8  q+8  q+8  q+8  -
qwen3.5-4b         12  l+8  l+8  l+8  q+8  q+8
qwen3.5-4b         16  l+8  l+8  l+8  l+8  l+8
qwen3.5-4b         24  l8   l+8  l+8  l+8  l+8
qwen3.5-4b         32  l8   l8   l+8  l+8  l+8
qwen3.5-4b         48  l8   l8   l8   l+8  l+8
qwen3.5-4b         80  l8   l8   l8   l8   l+8
mistral-7b          6  -    -    -    -    -
mistral-7b          8  q1   q+2  q+1  q+1  -
mistral-7b         12  q2   q1   q+4  q+2  q+1
mistral-7b         16  l+1  q2   q1   q+4  q+2
mistral-7b         24  l4   l2   l1   l+2  l+1
mistral-7b         32  l8   l4   l2   l1   l+2
mistral-7b         48  l8   l8   l4   l2   l1
mistral-7b         80  l8   l8   l8   l4   l2
qwen2.5-7b          6  -    -    -    -    -
qwen2.5-7b          8  q+2  q+1  -    -    -
qwen2.5-7b         12  q2   q1   q+4  q+2  q+1
qwen2.5-7b         16  q4   q2   q1   q+4  q+2
qwen2.5-7b         24  l4   l2   l1   l+2  l+1
qwen2.5-7b         32  l8   l4   l2   l1   l+2
qwen2.5-7b         48  l8   l8   l4   l2   l1
qwen2.5-7b         80  l8   l8   l8   l4   l2
llama-3.1-8b        6  -    -    -    -    -
llama-3.1-8b        8  q+1  -    -    -    -
llama-3.1-8b       12  q2   q1   q+4  q+2  q+1
llama-3.1-8b       16  q4   q2   q1   q+4  q+2
llama-3.1-8b       24  l2   l1   l1   l+2  l+1
llama-3.1-8b       32  l8   l4   l2   l1   l+2
llama-3.1-8b       48  l8   l8   l4   l2   l1
llama-3.1-8b       80  l8   l8   l8   l4   l2
qwen2.5-14b         6  -    -    -    -    -
qwen2.5-14b         8  -    -    -    -    -
qwen2.5-14b        12  -    -    -    -    -
qwen2.5-14b        16  q1   q+4  q+2  q+1  -
qwen2.5-14b        24  q4   q2   q1   q+4  q+2
qwen2.5-14b        32  l+4  l+2  l+1  q1   q+2
qwen2.5-14b        48  l4   l2   l1   l+4  l+2
qwen2.5-14b        80  l8   l8   l4   l2   l1
mistral-small-24b   6  -    -    -    -    -
mistral-small-24b   8  -    -    -    -    -
mistral-small-24b  12  -    -    -    -    -
mistral-small-24b  16  -    -    -    -    -
mistral-small-24b  24  q2   q1   q+4  q+2  q+1
mistral-small-24b  32  q4   q2   q1   q+4  q+2
mistral-small-24b  48  l+2  l+1  q2   q1   q+4
mistral-small-24b  80  l8   l4   l2   l1   l+4
qwen2.5-32b         6  -    -    -    -    -
qwen2.5-32b         8  -    -    -    -    -
qwen2.5-32b        12  -    -    -    -    -
qwen2.5-32b        16  -    -    -    -    -
qwen2.5-32b        24  q+4  q+2  q+1  -    -
qwen2.5-32b        32  q1   q1   q+4  q+2  q+1
qwen2.5-32b        48  q4   q2   q1   q+4  q+2
qwen2.5-32b        80  l2   l1   l+4  l+2  l+1
"""


def card(gib, **changes):
    """A card of so many GiB that shows a screen."""
    probe = Probe(True, "card", total=gib * GIB, free=int((gib - DESKTOP) * GIB), dtype="bfloat16", shows_screen=True)
    return replace(DeviceInfo.of("cuda", probe), **changes)


def planned(preset, device, length=2048, **settings):
    """The recipe, and the error where it cannot fit."""
    machine = for_machine(TrainConfig(model=preset, max_length=length, **settings), device)
    rows = full_rows(8, length)
    recipe, step = resolve(machine, rows, PRESETS[preset].config)
    return recipe, step, misfit(machine, recipe, step, rows)


def word(preset, gib, length):
    recipe, step, _ = planned(preset, card(gib), length)
    if not step.fits:
        return "-"
    return recipe.mode[0] + "+" * recipe.activation_checkpointing + str(recipe.micro_batch)


@pytest.mark.parametrize("line", TABLE.strip().splitlines(), ids=lambda line: " ".join(line.split()[:2]))
def test_the_best_that_fits_is_taken(line):
    preset, gib, *words = line.split()
    assert [word(preset, int(gib), length) for length in LENGTHS] == words


def test_the_table_has_every_preset_on_every_card():
    rows = [tuple(line.split()[:2]) for line in TABLE.strip().splitlines()]
    assert rows == [(preset, str(gib)) for preset in PRESETS for gib in CARDS]


@pytest.mark.parametrize(
    ("preset", "gib", "length"),
    [
        ("qwen2.5-7b", 16, 2048),
        ("mistral-7b", 16, 2048),
        ("llama-3.1-8b", 16, 2048),
        ("qwen2.5-14b", 16, 1024),
        ("mistral-small-24b", 32, 2048),
        ("qwen2.5-32b", 32, 2048),
    ],
)
def test_what_the_first_page_promises_fits(preset, gib, length):
    recipe, step, unfit = planned(preset, card(gib), length)
    assert step.fits and step.estimate.total <= step.free < gib * GIB and unfit is None
    assert recipe.mode == "qlora"


def test_the_reason_stands_beside_the_mode():
    def why(preset, gib, **settings):
        return planned(preset, card(gib), **settings)[0].why["mode"]

    assert why("llama-3.2-1b", 24) == "auto: bfloat16 weights need 18.9 of 23.2 GiB"
    assert why("smollm3-3b", 12) == "auto: bfloat16 weights need 9.6 of 11.2 GiB, with layers computed again"
    assert why("qwen2.5-7b", 16) == "auto: bfloat16 weights would need 16.5 of 15.2 GiB, 4 bits need 13.0"
    assert "4 bits would need" in why("qwen2.5-32b", 16)
    assert "lora does not go with the other settings" in why("qwen2.5-7b", 16, init="loftq")


def test_what_the_user_set_stays():
    for mode in ("lora", "qlora", "lora-8bit"):
        recipe, _, _ = planned("llama-3.2-1b", card(8), mode=mode)
        assert recipe.mode == mode and "mode" not in recipe.why
    assert planned("qwen2.5-7b", card(16), init="pissa")[0].mode == "lora"
    assert planned("llama-3.2-1b", card(80), init="loftq")[0].mode == "qlora"
    assert planned("qwen2.5-7b", card(16), fp8=True)[0].mode == "lora"
    with pytest.raises(BadValue, match="4 bits lose"):
        TrainConfig(mode="lora", init="loftq")


def test_off_a_card_and_where_nothing_is_known_it_is_lora_as_ever():
    for device in (DeviceInfo("cpu", GIB, "float32"), DeviceInfo("mlx", GIB, "auto"), DeviceInfo("cuda", None, "auto")):
        recipe, _, unfit = planned("qwen2.5-7b", device)
        assert recipe.mode == "lora" and recipe.why["mode"].endswith("the default") and unfit is None


def test_layers_of_linear_attention_have_no_formula_off_a_card():
    for device in (DeviceInfo("cpu", 16 * GIB, "float32"), card(16, dtype="float32")):
        _, step, _ = planned("qwen3.5-4b", device)
        assert step.estimate is None and step.fits is None


def test_without_its_package_4_bits_are_not_taken():
    recipe, step, unfit = planned("qwen2.5-7b", card(16, lacks={"qlora": "needs bitsandbytes"}))
    assert recipe.mode == "lora" and step.fits is False
    assert "qlora needs bitsandbytes" in recipe.why["mode"] and "--mode qlora" not in unfit.fix


def test_a_desktop_keeps_a_reserve():
    free = Probe(True, "card", total=16 * GIB, free=15 * GIB)
    assert DeviceInfo.of("cuda", free).free == 15 * GIB
    with_screen = DeviceInfo.of("cuda", replace(free, shows_screen=True))
    assert with_screen.free == 15 * GIB - with_screen.reserve and with_screen.reserve == GIB // 2


def test_what_cannot_fit_is_refused_with_what_would():
    _, _, unfit = planned("qwen2.5-7b", card(8))
    assert isinstance(unfit, DoesNotFit) and "7.4 GiB" in unfit.message and "7.2 GiB are free" in unfit.message
    assert unfit.fix == "Use what fits here: --max-length 1024, or --model mistral-7b."
    assert planned("qwen2.5-7b", card(8), 1024)[2] is None
    assert planned("mistral-7b", card(8))[2] is None
    _, _, unfit = planned("qwen2.5-7b", card(16), mode="lora")
    assert unfit.fix.startswith("Use what fits here: --mode qlora")
    assert planned("qwen2.5-7b", card(16), mode="qlora")[2] is None
    _, _, unfit = planned("qwen2.5-3b", card(6), mode="full")
    assert "--mode qlora" in unfit.fix and "--model" in unfit.fix


def test_more_rows_at_once_than_fit_are_not_refused_for_the_loop_takes_fewer():
    _, step, unfit = planned("llama-3.2-1b", card(6), 4096, micro_batch=8)
    assert step.fits is False and unfit is None
    _, step, unfit = planned("llama-3.2-1b", card(6), 4096, activation_checkpointing=False)
    assert step.fits is False and unfit is None


def test_families_whose_formula_was_not_held_against_traces_are_not_refused():
    machine, rows = for_machine(TrainConfig(), card(6)), full_rows(8, 2048)
    recipe, step = resolve(machine, rows, {**PRESETS["qwen2.5-7b"].config, "model_type": "unknown"})
    assert step.fits is False and misfit(machine, recipe, step, rows) is None


@pytest.mark.parametrize("preset", ["qwen2.5-3b", "llama-3.2-3b", "smollm3-3b"])
def test_all_weights_of_3_billion_parameters_fit_16_gb(preset):
    recipe, step, unfit = planned(preset, card(16), 1024, mode="full")
    assert recipe.optimizer == "host-adamw-8bit" and step.fits and unfit is None
    assert step.estimate.total <= 15 * GIB and "of 15.2 GiB would be needed" in recipe.why["optimizer"]


def test_moments_stay_on_a_card_that_has_room_and_where_the_user_put_them():
    assert planned("llama-3.2-1b", card(16), 1024, mode="full")[0].optimizer == "paged-adamw-8bit"
    assert planned("llama-3.2-3b", card(24), 1024, mode="full")[0].optimizer == "paged-adamw-8bit"
    recipe, step, _ = planned("llama-3.2-3b", card(16), 1024, mode="full", optimizer="adamw-8bit")
    assert recipe.optimizer == "adamw-8bit" and step.fits is False
    recipe, step, unfit = planned("phi-4-mini-3.8b", card(16), 1024, mode="full")
    assert step.fits is False and "llama-3.2-3b" in unfit.fix
    assert planned("phi-4-mini-3.8b", card(24), 1024, mode="full")[1].fits
