"""Rows that say the same, exactly and nearly."""

import random
from array import array

from hypothesis import given
from hypothesis import strategies as st

from bp_data import Row, convert
from bp_data.check.duplicates import NO_KEY, Places, key, repeats, shared
from bp_data.check.near_duplicates import SIMILAR, NearIndex, hashes

KEYS = st.lists(st.integers(0, 5))


@given(KEYS)
def test_a_row_repeats_the_first_one_with_its_key(values: list[int]) -> None:
    rows, firsts = repeats(array("Q", values))
    expected = [(row, values.index(value)) for row, value in enumerate(values) if value and values.index(value) < row]
    assert list(zip(rows.tolist(), firsts.tolist(), strict=True)) == expected and NO_KEY == 0


@given(KEYS, KEYS.filter(bool))
def test_shared_rows_are_those_whose_key_is_on_the_other_side(ours: list[int], theirs: list[int]) -> None:
    rows, firsts = shared(array("Q", ours), array("Q", theirs))
    expected = [(row, theirs.index(value)) for row, value in enumerate(ours) if value and value in theirs]
    assert list(zip(rows.tolist(), firsts.tolist(), strict=True)) == expected


def test_the_key_is_of_what_is_said_not_of_how_it_is_written() -> None:
    turns = [{"content": "Hi?", "role": "user"}, {"role": "assistant", "content": "Yes."}]
    alike = ({"prompt": "Hi?", "completion": "Yes."}, {"messages": turns, "id": 3})
    assert len({key(convert(Row(row, ""))) for row in alike}) == 1
    assert key(convert(Row({"text": "Hi?"}, ""))) != key(convert(Row({"text": "Hi!"}, "")))


@given(st.lists(st.tuples(st.sampled_from(["a.jsonl:", "b 7.csv:", "c.parquet: row ", "no number"]), st.integers(0))))
def test_places_come_back_as_they_were(parts: list[tuple[str, int]]) -> None:
    wanted = [name if name == "no number" else f"{name}{number % 2**62}" for name, number in parts]
    places = Places()
    for place in wanted:
        places.append(place)
    assert [places[row] for row in range(len(places))] == wanted


def test_near_duplicates_are_those_that_share_most_word_sequences() -> None:
    draw = random.Random(0)
    words = [f"w{number}" for number in range(5000)]
    texts = [draw.choices(words, k=80) for _ in range(300)]
    one_word = [[*text[:40], "another", *text[41:]] for text in texts]  # 75 of 81 sequences in common: 0.93
    six_words = [[*text[:30], *"abcdef", *text[36:45], "g", *text[46:]] for text in texts]  # 65 of 91 or so: 0.7
    index = NearIndex()
    for number, hashed in enumerate(hashes([" ".join(text) for text in texts])):
        assert index.add(number, hashed) is None
    found = [index.find(hashed) for hashed in hashes([" ".join(text).upper() for text in one_word])]
    assert sum(number == at for at, number in enumerate(found)) >= 295
    apart = [index.find(hashed) for hashed in hashes([" ".join(text) for text in six_words])]
    assert sum(number is not None for number in apart) < 30 and SIMILAR == 0.8


def test_short_texts_and_scripts_without_spaces_are_compared() -> None:
    index = NearIndex()
    sentence = "我们早上七点开门,星期一休息,欢迎您来我们的面包店品尝新鲜出炉的黑麦面包"
    for number, hashed in enumerate(hashes(["", "Hi", sentence, "👍"])):
        assert index.add(number, hashed) is None
    found = [index.find(hashed) for hashed in hashes(["", "hi!", sentence + "吧", "Ho", "🎉"])]
    assert found == [0, 1, 2, None, None]
