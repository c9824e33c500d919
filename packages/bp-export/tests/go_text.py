"""Go's text/template, as much of it as chat templates use, with Ollama's function json. From their documentation.

Go's texts are bytes: here they are texts with one letter for each byte.
"""

import json
import re
import sys
import threading

_ACTION = re.compile(r'\{\{(-(?=\s))?\s*((?:"(?:\\.|[^"\\])*"|[^"}]|\}(?!\}))*?)\s*((?<=\s)-)?\}\}')
_WORD = re.compile(r'"(?:\\.|[^"\\])*"|:=|[(),=]|[^\s(),=]+')
_DEEP = 20_000  # a template that calls itself for each letter of a tool
_one_at_a_time = threading.Lock()


def render(template, values):
    nodes, rest = _parse(_pieces(_as_bytes(template)))
    assert not rest, "an end too many"
    templates = {node[1]: node[2] for node in nodes if node[0] == "define"}
    values, out = _as_bytes(values), []
    with _one_at_a_time:
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(before, _DEEP))
        try:
            _run(nodes, _State(templates, out, [{"$": values}]), values)
        finally:
            sys.setrecursionlimit(before)
    return "".join(out).encode("latin-1").decode()


def marshal(value):
    """JSON as Go writes it: without spaces, and nothing that HTML knows."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _as_bytes(value):
    if isinstance(value, str):
        return value.encode().decode("latin-1")
    if isinstance(value, dict):
        return {key: _as_bytes(item) for key, item in value.items()}
    return [_as_bytes(item) for item in value] if isinstance(value, list) else value


class _State:
    """What a running template knows: the templates by name, what was written, and the variables in their scopes."""

    def __init__(self, templates, out, scopes):
        self.templates, self.out, self.scopes = templates, out, scopes

    def set(self, name, value, *, new):
        scope = self.scopes[-1] if new else next(scope for scope in reversed(self.scopes) if name in scope)
        scope[name] = value

    def get(self, name):
        return next(scope[name] for scope in reversed(self.scopes) if name in scope)


def _pieces(template):
    """Alternating text and actions, trimmed where the actions say so."""
    pieces, at, trim = [], 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        pieces += [("text", text.rstrip() if match[1] else text), ("action", match[2].strip())]
        at, trim = match.end(), bool(match[3])
    return [*pieces, ("text", template[at:].lstrip() if trim else template[at:])][::-1]


def _parse(pieces):
    """Nodes up to an unopened else or end, which is left. The pieces are taken from their end."""
    nodes = []
    while pieces:
        kind, text = pieces[-1]
        word = text.split()[0] if kind == "action" else ""
        if word in ("else", "end"):
            break
        pieces.pop()
        if word in ("if", "range", "define"):
            nodes.append(_block(word, text[len(word) :].strip(), pieces))
        else:
            nodes.append((kind, text))
    return nodes, pieces


def _block(word, condition, pieces):
    body, _ = _parse(pieces)
    _, text = pieces.pop()
    otherwise = []
    if text.startswith("else if"):
        return word, condition, body, [_block("if", text[len("else if") :], pieces)]
    if text == "else":
        otherwise, _ = _parse(pieces)
        _, text = pieces.pop()
    assert text == "end", text
    return (word, json.loads(condition), body) if word == "define" else (word, condition, body, otherwise)


def _run(nodes, state, dot):
    for kind, text, *blocks in nodes:
        if kind == "text":
            state.out.append(text)
        elif kind == "if":
            state.scopes.append({})
            _run(blocks[0] if _value(text, state, dot) else blocks[1], state, dot)
            state.scopes.pop()
        elif kind == "range":
            _run_each(text, blocks[0], state, dot)
        elif kind == "action":
            _act(text, state, dot)


def _run_each(text, body, state, dot):
    variables, _, values = text.rpartition(":=")
    named = [name.strip() for name in variables.split(",") if name.strip()]
    for place, item in enumerate(_value(values, state, dot) or []):
        state.scopes.append(dict(zip(named, (place, item), strict=False)))
        _run(body, state, item)
        state.scopes.pop()


def _act(text, state, dot):
    name, sign, value = re.fullmatch(r"(?:(\$\w+)\s*(:?=)\s*)?(.*)", text, re.S).groups()
    if name:
        state.set(name, _value(value, state, dot), new=sign == ":=")
    elif text.startswith("template "):
        called, *words = _WORD.findall(text)[1:]
        argument, _ = _pipeline(words, state, dot)
        _run(state.templates[json.loads(called)], _State(state.templates, state.out, [{"$": argument}]), argument)
    else:
        state.out.append(str(_value(text, state, dot)))


def _value(text, state, dot):
    value, rest = _pipeline(_WORD.findall(text), state, dot)
    assert not rest, rest
    return value


def _pipeline(words, state, dot):
    """A function with its arguments, or one value, up to the closing bracket."""
    values = []
    while words and words[0] != ")":
        value, words = _operand(words, state, dot)
        values.append(value)
        if len(values) > 1 and _decides(values[0], value):
            words = _skipped(words)
    first, *arguments = values
    return (first(*arguments) if callable(first) else first), words


def _decides(function, value):
    """Whether `and` or `or` need not look at what follows this value."""
    return (function is _FUNCTIONS["or"] and value) or (function is _FUNCTIONS["and"] and not value)


def _skipped(words):
    """The words from the bracket on that closes here."""
    depth = 0
    for place, word in enumerate(words):
        if word == ")" and not depth:
            return words[place:]
        depth += {"(": 1, ")": -1}.get(word, 0)
    return []


def _operand(words, state, dot):
    word, *words = words
    if word == "(":
        value, words = _pipeline(words, state, dot)
        return value, words[1:]
    if word.startswith('"'):
        return _as_bytes(json.loads(word.encode("latin-1"))), words
    if word.lstrip("-").isdigit():
        return int(word), words
    if word[0] in "$.":
        return _field(word, state, dot), words
    return _FUNCTIONS[word], words


def _field(word, state, dot):
    variable, *path = word.split(".")
    value = state.get(variable) if variable else dot
    for name in path:
        if name:
            value = value.get(name, "") if isinstance(value, dict) else value
    return value


def _json(value):
    """A text as JSON; a struct has its own beside its fields."""
    return value["json"] if isinstance(value, dict) else _as_bytes(marshal(value.encode("latin-1").decode()))


def _printf(form, *values):
    form = form.replace("%c", "%s")
    return form % tuple(chr(value) if isinstance(value, int) and form.startswith("%s") else value for value in values)


_FUNCTIONS = {
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "gt": lambda first, second: first > second,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "len": len,
    "slice": lambda values, start=0, end=None: values[start:end],
    "index": lambda values, place: ord(values[place]) if isinstance(values, str) else values[place],
    "json": _json,
    "printf": _printf,
}
