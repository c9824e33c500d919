"""Go's text/template, as much of it as chat templates use. From its documentation."""

import json
import re

_ACTION = re.compile(r'\{\{(-(?=\s))?\s*((?:"(?:\\.|[^"\\])*"|[^"}]|\}(?!\}))*?)\s*((?<=\s)-)?\}\}')
_WORD = re.compile(r'"(?:\\.|[^"\\])*"|:=|[(),]|[^\s(),]+')


def render(template, values):
    nodes, rest = _parse(_pieces(template))
    assert not rest, "an end too many"
    return _run(nodes, {"$": values}, values)


def _pieces(template):
    """Alternating text and actions, trimmed where the actions say so."""
    pieces, at, trim = [], 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        pieces += [("text", text.rstrip() if match[1] else text), ("action", match[2].strip())]
        at, trim = match.end(), bool(match[3])
    return [*pieces, ("text", template[at:].lstrip() if trim else template[at:])]


def _parse(pieces):
    """Nodes up to an unopened else or end, and what comes from there on."""
    nodes = []
    while pieces:
        (kind, text), *pieces = pieces
        word = text.split()[0] if kind == "action" else ""
        if word in ("else", "end"):
            return nodes, [(kind, text), *pieces]
        if word in ("if", "range"):
            node, pieces = _block(word, text[len(word) :], pieces)
            nodes.append(node)
        else:
            nodes.append((kind, text))
    return nodes, []


def _block(word, condition, pieces):
    body, pieces = _parse(pieces)
    (_, text), *pieces = pieces
    otherwise = []
    if text.startswith("else if"):
        node, pieces = _block("if", text[len("else if") :], pieces)
        return (word, condition, body, [node]), pieces
    if text == "else":
        otherwise, pieces = _parse(pieces)
        (_, text), *pieces = pieces
    assert text == "end", text
    return (word, condition, body, otherwise), pieces


def _run(nodes, names, dot):
    return "".join(_written(node, names, dot) for node in nodes)


def _written(node, names, dot):
    kind, text, *blocks = node
    if kind == "text":
        return text
    if kind == "action":
        return str(_value(text, names, dot))
    if kind == "if":
        return _run(blocks[0] if _value(text, names, dot) else blocks[1], names, dot)
    variables, _, values = text.rpartition(":=")
    named = [name.strip() for name in variables.split(",") if name.strip()]
    written = []
    for place, item in enumerate(_value(values, names, dot)):
        written.append(_run(blocks[0], {**names, **dict(zip(named, (place, item), strict=False))}, item))
    return "".join(written)


def _value(text, names, dot):
    words = _WORD.findall(text)
    value, rest = _pipeline(words, names, dot)
    assert not rest, rest
    return value


def _pipeline(words, names, dot):
    """A function with its arguments, or one value, up to the closing bracket."""
    values = []
    while words and words[0] != ")":
        value, words = _operand(words, names, dot)
        values.append(value)
    first, *arguments = values
    return (first(*arguments) if callable(first) else first), words


def _operand(words, names, dot):
    word, *words = words
    if word == "(":
        value, words = _pipeline(words, names, dot)
        return value, words[1:]
    if word.startswith('"'):
        return json.loads(word), words
    if word.lstrip("-").isdigit():
        return int(word), words
    if word[0] in "$.":
        return _field(word, names, dot), words
    return _FUNCTIONS[word], words


def _field(word, names, dot):
    variable, *path = word.split(".")
    value = names[variable] if variable else dot
    for name in path:
        if name:
            value = value.get(name, "") if isinstance(value, dict) else value
    return value


_FUNCTIONS = {
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "len": len,
    "slice": lambda values, start=0, end=None: values[start:end],
    "index": lambda values, place: values[place],
}
