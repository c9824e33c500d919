import json
from dataclasses import replace

import pytest

from bp_core.contract import CONTRACT_FILE, Contract
from bp_core.errors import AdapterUnusable

CONTRACT = Contract("{{ messages }}", "template", (2, 7), ("<|im_end|>", "</s>"))


def test_what_is_written_is_read_back(tmp_path):
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(CONTRACT.as_dict()), encoding="utf-8")
    assert Contract.read(tmp_path) == CONTRACT


def test_an_adapter_from_elsewhere_has_none(tmp_path):
    assert Contract.read(tmp_path) is None


@pytest.mark.parametrize("change", [{"template": "{{ other }}"}, {"version": 99}, {"terminators": 3}])
def test_an_altered_contract_is_refused(tmp_path, change):
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(CONTRACT.as_dict() | change), encoding="utf-8")
    with pytest.raises(AdapterUnusable):
        Contract.read(tmp_path)
    (tmp_path / CONTRACT_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(AdapterUnusable):
        Contract.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bos": "tokenizer"},
            "the beginning-of-sequence token is written by template in one and tokenizer in the other",
        ),
        ({"tool_schema": "as-is"}, "the schemas of tools are served in one and as-is in the other"),
    ],
)
def test_two_contracts_that_one_model_cannot_keep(changes, message):
    with_tools = replace(CONTRACT, template="{{ tools }}", tools_template="hermes", tool_schema="served")
    assert with_tools.conflicts(replace(with_tools, **changes)) == [message]
    assert with_tools.conflicts(replace(CONTRACT, bos="none", template="")) == [], "raw text"


def test_what_only_one_contract_has_is_no_conflict():
    with_tools = replace(CONTRACT, template="{{ tools }}", tools_template="hermes", tool_schema="served")
    thinking = replace(CONTRACT, template="{{ thoughts }}", adds_thoughts=True)
    assert with_tools.conflicts(thinking) == thinking.conflicts(with_tools) == with_tools.conflicts(CONTRACT) == []
