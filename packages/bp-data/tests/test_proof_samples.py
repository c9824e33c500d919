import pytest

from bp_data import ChatTokenizer, Prepared, prepare


def rows(*words: int) -> list[dict[str, object]]:
    return [{"prompt": f"q{i}", "completion": f"{i} 漢👩" + " word" * count} for i, count in enumerate(words)]


def assert_provable(prepared: Prepared, tokenizer: ChatTokenizer) -> None:
    """What the proof relies on: tokenising the text again gives the tokens, and there is an answer after the prompt."""
    written = tokenizer.prefix if prepared.contract.bos == "tokenizer" else ()
    assert prepared.samples
    for sample in prepared.samples:
        assert sample.tokens == (*written, *tokenizer.encode(sample.text))
        assert len(sample.trained) == len(sample.tokens)
        assert sum(sample.trained) > 0
        assert sample.prompt == sample.tokens[: len(sample.prompt)]
        assert 0 < len(sample.prompt) < len(sample.tokens)


def test_eight_short_rows_spread_over_the_data(smol: ChatTokenizer) -> None:
    prepared = prepare(rows(*[3] * 40, *[400] * 2), smol, max_length=512)
    assert_provable(prepared, smol)
    asked = [sample.text.split("user\nq")[1].split("<")[0] for sample in prepared.samples]
    assert asked == ["0", "5", "10", "15", "20", "25", "30", "35"]
    assert prepared.samples == prepare(rows(*[3] * 40, *[400] * 2), smol, max_length=512).samples


def test_samples_of_many_rows_are_spread_over_all_of_them(smol: ChatTokenizer) -> None:
    prepared = prepare(({"prompt": f"q{i}", "completion": "a"} for i in range(3000)), smol, max_length=64)
    assert_provable(prepared, smol)
    asked = [int(sample.text.split("user\nq")[1].split("<")[0]) for sample in prepared.samples]
    assert len(asked) == 8
    assert all(abs(number - 375 * i) < 30 for i, number in enumerate(asked))


def test_few_rows_are_all_samples(smol: ChatTokenizer) -> None:
    prepared = prepare(rows(3, 3, 3), smol, max_length=512)
    assert [sample.text for sample in prepared.samples] == [
        smol.render([{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}])  # type: ignore[dict-item]
        for row in rows(3, 3, 3)
    ]


def test_without_short_rows_the_shortest_serve(smol: ChatTokenizer) -> None:
    prepared = prepare(rows(*range(300, 340)), smol, max_length=512)
    assert_provable(prepared, smol)
    longest = max(len(sample.tokens) for sample in prepared.samples)
    assert longest == sorted(len(example.tokens) for example in prepared.examples)[7]


@pytest.mark.parametrize("max_length", range(36, 46))
def test_when_every_row_is_cut_samples_are_cut_where_their_text_still_fits(
    smol: ChatTokenizer, max_length: int
) -> None:
    prepared = prepare(rows(300, 300), smol, max_length=max_length)
    assert_provable(prepared, smol)
    assert all(max_length - 16 < len(sample.tokens) <= max_length for sample in prepared.samples)


def test_raw_text_and_a_bos_from_the_tokenizer_can_be_proven_too(smol: ChatTokenizer, llama: ChatTokenizer) -> None:
    for tokenizer in (smol, llama):
        for max_length in (20, 500):
            assert_provable(prepare([{"text": "once upon a time " * 9}], tokenizer, max_length=max_length), tokenizer)
