import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bp_core.errors import BadRow, BadValue, OutputUnusable
from bp_data import convert, read
from bp_data.split import Split, split

SHARE = st.floats(0.2, 0.8)
NUMBERS = st.lists(st.integers(0, 40), min_size=2, max_size=40).filter(lambda numbers: len(set(numbers)) >= 4)


def openai(n: int) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n} é."}]}


def write(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="")
    return path


def contents(path: Path) -> list[str]:
    return [json.dumps(convert(row).content) for row in read(path)]


def parts(done: Split) -> tuple[list[bytes], list[bytes]]:
    return done.train.read_bytes().splitlines(True), done.held_out.read_bytes().splitlines(True)


@settings(max_examples=40, deadline=None)
@given(NUMBERS, SHARE, st.integers())
def test_it_is_a_partition_in_order_without_a_conversation_on_both_sides(
    numbers: list[int], share: float, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), *({**openai(n), "id": i} for i, n in enumerate(numbers)))
        done = split(path, share, seed=seed)
        train, held = parts(done)
        assert sorted(train + held) == sorted(path.read_bytes().splitlines(True))
        for lines in (train, held):
            ids = [json.loads(line)["id"] for line in lines]
            assert ids == sorted(ids) and ids
        assert not set(contents(done.train)) & set(contents(done.held_out))
        assert len(set(contents(done.held_out))) == round(share * len(set(numbers)))
        assert (done.train_rows, done.held_out_rows) == (len(train), len(held))
        assert done.repeated == len(numbers) - len(set(numbers))


@settings(max_examples=20, deadline=None)
@given(NUMBERS, SHARE, st.integers(), st.randoms())
def test_the_same_seed_holds_out_the_same_wherever_the_rows_stand(
    numbers: list[int], share: float, seed: int, random: object
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = split(write(Path(folder), *map(openai, numbers)), share, seed=seed)
        again = split(first.train.parent / "rows.jsonl", share, seed=seed, folder=Path(folder) / "again")
        assert parts(first) == parts(again)
        other = split(write(Path(folder), *map(openai, reversed(numbers)), name="other.jsonl"), share, seed=seed)
        assert set(parts(first)[1]) == set(parts(other)[1])


def test_another_seed_holds_out_others(tmp_path: Path) -> None:
    path = write(tmp_path, *map(openai, range(60)))
    one, two = (split(path, 0.3, seed=seed, folder=tmp_path / str(seed)) for seed in (1, 2))
    assert parts(one) != parts(two)


def test_the_same_conversation_in_two_formats_stays_together(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{n}?", "completion": f"{n} é."} for n in range(20)]
    done = split(write(tmp_path, *map(openai, range(20)), *pairs), 0.3)
    assert (done.held_out_rows, done.repeated) == (12, 20)
    assert not set(contents(done.train)) & set(contents(done.held_out))


def test_lines_of_json_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [f'{{ "text" :"{n} \\u00e9 é\u2028",  "x": NaN}}'.encode() for n in range(6)]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines[:3]) + b"\n\n" + b"\n".join(lines[3:]))
    train, held = parts(split(path, 0.5))
    written = [*lines[:2], lines[2].removesuffix(b"\r"), *lines[3:]]
    assert sorted(line.rstrip(b"\r\n") for line in train + held) == sorted(written)
    assert sum(line.endswith(b"\r\n") for line in train + held) == 2


@pytest.mark.parametrize("name", ["rows.json", "rows.txt", "ROWS.TXT"])
def test_what_is_not_lines_of_json_becomes_that(name: str, tmp_path: Path) -> None:
    rows = [{"text": f"é {n}"} for n in range(4)]
    path = tmp_path / name
    text = json.dumps(rows, indent=1) if name == "rows.json" else "\n\n".join(row["text"] for row in rows)
    path.write_text(text, encoding="utf-8")
    done = split(path, 0.5)
    assert done.train.name == f"{path.stem}.train.jsonl"
    assert {line.decode() for lines in parts(done) for line in lines} == {f'{{"text": "é {n}"}}\n' for n in range(4)}


def test_half_a_character_beside_the_conversation_is_written_escaped(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": f"{n}", "x": "\ud83d"} for n in range(2)]))
    done = split(path, 0.5)
    assert [row.value["x"] for part in (done.train, done.held_out) for row in read(part)] == ["\ud83d"] * 2


def test_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path, *map(openai, range(4)))
    there = tmp_path / "rows.held-out.jsonl"
    there.write_text("mine")
    with pytest.raises(OutputUnusable, match="exists already") as caught:
        split(path, 0.5)
    assert caught.value.where == str(there)
    assert there.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("count", "share", "message", "fix"),
    [
        (4, 0.05, "nothing is held out", "from 0.25 to 0.75"),
        (4, 0.95, "nothing is left to train on", "from 0.25 to 0.75"),
        (1, 0.5, "of 1 different", "at least two different"),
        (4, 0.0, "between 0 and 1", "0.05"),
        (4, 5, "between 0 and 1, not 5", "0.05"),
        (4, float("nan"), "between 0 and 1", "0.05"),
    ],
)
def test_a_side_without_rows_is_refused(count: int, share: float, message: str, fix: str, tmp_path: Path) -> None:
    path = write(tmp_path, *map(openai, range(count)), *map(openai, range(count)))
    with pytest.raises(BadValue, match=message) as caught:
        split(path, share)
    assert fix in caught.value.fix
    assert list(tmp_path.iterdir()) == [path]


def test_a_bad_row_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = write(tmp_path, openai(1), {"text": 3}, openai(2))
    with pytest.raises(BadRow) as caught:
        split(path, 0.5)
    assert caught.value.where == f"{path}:2"
    assert list(tmp_path.iterdir()) == [path]
