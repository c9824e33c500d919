"""Type drift."""

from bp_data.check.findings import KEPT, Findings
from bp_data.check.type_drift import TypeDrift


def drift(*rows: dict[str, object]) -> tuple[list[tuple[str, str]], int]:
    seen, findings = TypeDrift(), Findings()
    for number, row in enumerate(rows, 1):
        seen.add(row, f"a:{number}")
    seen.add_findings(findings)
    return [(finding.place, finding.message) for finding in findings], findings.counts["type-drift"]


def test_the_rows_that_differ_from_most_are_found_even_if_they_come_first() -> None:
    rows = [{"id": "1"}, {"id": 2}, {"id": 3.5}, {"id": None}, {}]
    assert drift(*rows) == ([("a:1", "'id' is a string, and elsewhere a number")], 1)


def test_keys_inside_lists_of_turns_are_compared_too() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "user", "content": ["c"]}]
    assert drift({"m": turns}) == ([("a:1", "'m[].content' is a list, and elsewhere a string")], 1)


def test_all_are_counted_and_the_first_kept() -> None:
    rows = [{"id": True}] * (KEPT + 7) + [{"id": "x"}] * (KEPT + 8)
    kept, count = drift(*rows)
    assert (len(kept), kept[0][0], count) == (KEPT, "a:1", KEPT + 7)


def test_a_file_of_ever_new_keys_does_not_fill_the_memory() -> None:
    kept, count = drift(*({f"key {number}": 1} for number in range(10_050)))
    assert count == 1 and kept[0][0] == "a:10001" and "not compared" in kept[0][1]
