"""Fixed texts and JSON in Go templates.

Go's `json` writes no space after a comma or a colon, and `<`, `>` and `&` as \\u003c and so on; Python and Jinja write
`", "`, `": "` and the letters themselves. The templates below rewrite the one into the other, letter by letter: a
template of Go calls another with what is left of the text.
"""

from __future__ import annotations

import re

LISTED = "\ue004"  # stands for the tools in a fixed text; a private-use character, which no template has
# `{{ template "json" (json VALUE) }}` writes a value as Python's json.dumps does.
_IN_STRING = (
    '{{ define "NAME-string" }}{{ $c := slice . START END }}'
    '{{ if eq $c "\\"" }}{{ $c }}{{ template "NAME" AFTER-1 }}'
    '{{ else if ne $c "\\\\" }}{{ $c }}{{ template "NAME-string" AFTER-1 }}'
    '{{ else if ne (slice . START TWO) "\\\\u" }}{{ slice . START TWO }}{{ template "NAME-string" AFTER-2 }}'
    "{{ else }}{{ $u := slice . TWO SIX }}"
    '{{ if eq $u "003c" }}<{{ else if eq $u "003e" }}>{{ else if eq $u "0026" }}&'
    '{{ else if eq $u "2028" }}\u2028{{ else if eq $u "2029" }}\u2029{{ else }}\\u{{ $u }}{{ end }}'
    '{{ template "NAME-string" AFTER-6 }}{{ end }}{{ end }}'
)
_PLAIN = (
    '{{ define "json" }}{{ if . }}{{ $c := slice . 0 1 }}{{ $c }}'
    '{{ if eq $c "\\"" }}{{ template "json-string" (slice . 1) }}'
    '{{ else }}{{ if or (eq $c ",") (eq $c ":") }} {{ end }}{{ template "json" (slice . 1) }}{{ end }}'
    "{{ end }}{{ end }}"
)
# The same with indent=4. The first letter of the text tells how far the line is indented.
_INDENTED = (
    '{{ define "indented" }}{{ if gt (len .) 1 }}{{ $w := index . 0 }}{{ $c := slice . 1 2 }}{{ $r := slice . 2 }}'
    '{{ if eq $c "\\"" }}{{ $c }}{{ template "indented-string" (printf "%c%s" $w $r) }}{{ else }}'
    '{{ $n := "" }}{{ if $r }}{{ $n = slice $r 0 1 }}{{ end }}'
    '{{ if and (or (eq $c "{") (eq $c "[")) (or (eq $n "}") (eq $n "]")) }}{{ $c }}{{ $n }}{{ $r = slice $r 1 }}'
    '{{ else if or (eq $c "{") (eq $c "[") }}{{ $c }}'
    '{{ $w = len (printf "%*s    " $w "") }}{{ printf "\\n%*s" $w "" }}'
    '{{ else if or (eq $c "}") (eq $c "]") }}'
    '{{ $w = len (slice (printf "%*s" $w "") 4) }}{{ printf "\\n%*s" $w "" }}{{ $c }}'
    '{{ else if eq $c "," }}{{ $c }}{{ printf "\\n%*s" $w "" }}'
    '{{ else }}{{ $c }}{{ if eq $c ":" }} {{ end }}{{ end }}'
    '{{ template "indented" (printf "%c%s" $w $r) }}{{ end }}{{ end }}{{ end }}'
)


def definitions(template: str) -> str:
    """The templates that a template calls."""
    written = _PLAIN + _string("json", prefix=0) if 'template "json"' in template else ""
    return written + (_INDENTED + _string("indented", prefix=1) if 'template "indented"' in template else "")


def literal(text: str) -> str:
    """Fixed text for a Go template, quoted where Go could read it as an action.

    As little as possible is quoted: Ollama takes the text with which calls begin for the mark by which it knows them.
    """
    return re.sub(rf"\{{(?=\{{|{LISTED}|$)", '{{ "{" }}', text)


def when(condition: str, text: str, otherwise: str = "") -> str:
    """The text where the condition holds, else the other."""
    other = f"{{{{ else }}}}{otherwise}" if otherwise else ""
    return f"{{{{ if {condition} }}}}{text}{other}{{{{ end }}}}"


def _string(name: str, *, prefix: int) -> str:
    """The template for the inside of a string; `prefix`: letters before the text."""
    written = _IN_STRING.replace("NAME", name)
    for place, number in {"START": 0, "END": 1, "TWO": 2, "SIX": 6}.items():
        written = written.replace(place, str(number + prefix))
    for number in (1, 2, 6):
        rest = f"(slice . {number + prefix})"
        if prefix:
            rest = f'(printf "%s%s" (slice . 0 {prefix}) {rest})'
        written = written.replace(f"AFTER-{number}", rest)
    return written
