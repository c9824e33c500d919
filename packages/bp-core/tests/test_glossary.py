from bp_core.glossary import GLOSSARY, terms_in


def test_terms_are_found_as_words_and_in_the_plural():
    assert terms_in("Losses, two epochs and an adapter") == ["adapter", "epoch"]
    assert terms_in("nothing of the kind") == []


def test_each_meaning_is_a_sentence():
    assert all(meaning.endswith(".") and len(meaning) < 120 for meaning in GLOSSARY.values())
