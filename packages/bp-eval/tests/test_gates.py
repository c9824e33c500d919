import math

import pytest

from bp_core.errors import BadValue
from bp_eval.config import CompareConfig, EvalConfig
from bp_eval.gates import METRICS, gates_in


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("metric", [*METRICS, *(f"{name}_change" for name in METRICS)])
def test_a_condition_is_read_as_it_is_written(metric, sign):
    (gate,) = gates_in(f" {metric} {sign} -0.5 ")
    assert str(gate) == f"{metric}{sign}-0.5" and gate.change == metric.endswith("_change")
    assert [gate.holds(value) for value in (-1, -0.5, 0)] == ["<" in sign, "=" in sign, ">" in sign]
    assert not gate.holds(math.nan)


def test_several_conditions_stand_between_commas_and_nothing_is_none():
    assert [str(gate) for gate in gates_in("loss<2.5,f1>=0.3")] == ["loss<2.5", "f1>=0.3"]
    assert gates_in("") == gates_in(" ") == ()


def test_every_wrong_condition_is_named_with_what_was_meant():
    with pytest.raises(BadValue) as caught:
        gates_in("loss<2,perplexty<9,f1==1,loss>high,f1<nan,")
    for said in (
        "'perplexity'",
        "'f1==1' is no condition",
        "'loss>high' has no number",
        "'f1<nan' has no number",
        "''",
    ):
        assert said in caught.value.message
    assert "'loss<2'" not in caught.value.message


IMPOSSIBLE = {
    "give --against": dict(gate="loss_change<0"),
    "give --regex": dict(gate="regex>0.5"),
    "on answers, but answers is 0": dict(gate="f1>0.5", answers=0),
    "regex is about answers": dict(regex="x", answers=0),
    "max_tokens is about answers": dict(max_tokens=4, answers=0),
    "no regular expression": dict(regex="("),
    "answers is -1": dict(answers=-1),
    "samples is 0": dict(samples=0),
}


@pytest.mark.parametrize("said", IMPOSSIBLE)
def test_an_evaluation_that_cannot_be_is_refused(said):
    with pytest.raises(BadValue, match=said):
        EvalConfig(**IMPOSSIBLE[said])


def test_an_evaluation_that_can_be_is_not():
    EvalConfig(gate="loss<2,loss_change<0,regex>0,f1>0", against="base", regex="[0-9]+", max_tokens=4)
    EvalConfig(gate="loss<2", answers=0)
    with pytest.raises(BadValue):
        CompareConfig(answers=0)
