from xml.etree import ElementTree

from backpropagate.reports.heat_map import heat_map

SVG = "{http://www.w3.org/2000/svg}"


def drawn(values, rows=("a", "b"), columns=("x", "y")):
    return ElementTree.fromstring(heat_map(values, rows, columns))


def cells(picture):
    return [node.get("fill") for node in picture.iter("{http://www.w3.org/2000/svg}rect")][
        1:
    ]  # the first is the ground


def test_what_fell_is_blue_what_rose_is_orange_and_nothing_is_empty():
    fallen, none, risen = cells(drawn([[-0.2, None], [0.0, 0.1]]))
    assert (fallen, none, risen) == ("rgb(31,111,178)", "rgb(255,255,255)", "rgb(224,171,140)")


def test_names_are_shortened_and_are_no_markup():
    picture = drawn(
        [[1.0]], rows=["<b>&a name that is much too long for its place"], columns=["a/very-long-file.jsonl"]
    )
    texts = [node.text for node in picture.iter(f"{SVG}text")]
    assert texts == ["rows of … after …", "a/very-long-…", "<b>&a name that is much…", "+1.000"]


def test_nothing_but_zeros_can_be_drawn():
    assert cells(drawn([[0.0, None]], rows=["a"])) == ["rgb(255,255,255)"]
    assert cells(drawn([], rows=[], columns=[])) == []
