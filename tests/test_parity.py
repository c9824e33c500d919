"""Equal to others: each row of benchmarks/parity.py within its tolerance."""

import warnings

import parity
import pytest

CASES = {
    "sft": parity.sft,
    "orpo": lambda *where: parity.pairs("orpo", *where),
    "simpo": lambda *where: parity.pairs("simpo", *where),
    "kto": lambda *where: parity.rated(*where, 4),
    "kto, one at a time": lambda *where: parity.rated(*where, 1),
    "adapters": parity.adapters,
    "4 bits": parity.four_bits,
}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c == "adapters" else c for c in CASES])
def test_our_numbers_are_those_of_the_reference(case, tiny_llama, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and transformers' own
        rows = list(CASES[case](tiny_llama, tmp_path))
    assert rows and not [row for row in rows if not row.equal]
