import json

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
