import pytest

from bp_core.errors import ERRORS, BackpropagateError, BrokenJson, Interrupted


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_says_what_happened_what_to_do_and_who_must_act(code):
    kind = ERRORS[code]
    assert kind.code == code and kind.fix.endswith(".") and kind.__doc__
    family = code.split("_")[0]
    assert kind.exit_code == (130 if kind is Interrupted else 1 if family in ("INPUT", "CONFIG") else 2)


def test_an_error_carries_its_place_and_its_own_fix():
    error = BrokenJson("expected a comma.", where="rows.jsonl:3", fix="Add it.")
    assert str(error) == "rows.jsonl:3: expected a comma."
    assert error.as_dict() == {
        "code": "INPUT_JSON_BROKEN", "message": "expected a comma.", "where": "rows.jsonl:3", "fix": "Add it."
    }  # fmt: skip
    assert BrokenJson("x").fix == BrokenJson.fix


def test_a_code_cannot_be_declared_twice():
    with pytest.raises(AssertionError, match="twice"):
        type("Again", (BackpropagateError,), {"fix": "x.", "__doc__": "x"}, code="INPUT_JSON_BROKEN")
