"""Secrets and personal data in text: found by form and, where there is one, by checksum; never shown whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from bp_core.secrets import TOKENS, SecretShape, looks

Spot = tuple[str, str, int]  # the kind of finding, what to say, and where in the text it begins


def _random(value: str) -> bool:
    """Not a placeholder such as sk-xxxxxxxx or …EXAMPLE."""
    return len(set(value)) > 9 and "EXAMPLE" not in value.upper()


def _mixed(value: str) -> bool:
    return _random(value) and bool(re.search(r"\d", value)) and bool(re.search("[A-Z]", value))


_PLACEHOLDERS = {"pass", "passwd", "password", "pwd", "secret", "user", "username", "xxx", "xxxx", "changeme"}


def _password(url: str) -> bool:
    word = url.rpartition(":")[2]
    return word.lower() not in _PLACEHOLDERS and len(set(word)) > 2 and not re.search("[<>{}$*]", url)


def _address(mail: str) -> bool:
    return not re.search(r"@(?:[\w-]+\.)*example\.", mail)


def luhn(number: str) -> bool:
    """The checksum of card numbers (ISO/IEC 7812-1, annex B)."""
    digits = [int(sign) for sign in reversed(number) if sign.isdigit()]
    return len(set(digits)) > 1 and sum(digits[::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0


def iban(number: str) -> bool:
    """The checksum of bank account numbers (ISO 13616: mod 97 is 1)."""
    signs = number.replace(" ", "")
    return 15 <= len(signs) <= 34 and int("".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])) % 97 == 1


# Which of what has a shape is meant, where it is not enough that it looks random.
_GENUINE: dict[str, Callable[[str], bool]] = {
    "a private key": bool,
    "an API key (sk-…)": _mixed,
    "a password in a URL": _password,
    "an e-mail address": _address,
    "a phone number": bool,
    "a card number": luhn,
    "a bank account number": iban,
}
_ADDRESS = looks(
    "an e-mail address", r"\b[\w.+-]{1,64}@[A-Za-z\d-]{1,63}(?:\.[A-Za-z\d-]{1,63}){0,8}\.[A-Za-z]{2,24}\b", "@"
)
# These have no needle: a run of digits is looked for first.
_NUMBERS = (
    looks(
        "a phone number",
        r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,11}"
        r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}([.-])\d{3}\1\d{4})(?![\w-])",
    ),
    looks("a card number", r"(?<![\w-])(?:4|5[1-5]|2[2-7]|3[47]|6(?:011|5))(?:[ -]?\d){11,17}(?![\w-])"),
    looks("a bank account number", r"\b[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,3})?\b"),
)
_SHAPES = (*TOKENS, _ADDRESS)


def _by_rarest_sign(shapes: Iterable[SecretShape]) -> dict[str, list[tuple[str, SecretShape]]]:
    """The needles under the sign in them that text has least often: looking for a single one is ten times quicker."""
    found: dict[str, list[tuple[str, SecretShape]]] = {}
    for shape in shapes:
        for needle in shape.needles:
            sign = min(needle, key=lambda sign: (sign.isspace(), sign.isalnum(), sign.islower()))
            found.setdefault(sign, []).append((needle, shape))
    return found


_NEEDLES = _by_rarest_sign(_SHAPES)
_DIGITS = re.compile(r"\d[\d .()-]{2,}\d")


def secrets(text: str) -> Iterator[Spot]:
    """The secrets and personal data in a text, each masked."""
    for shape, match in _matches(text):
        kind = "secret" if shape in TOKENS else "personal-data"
        yield kind, f"{shape.name}: {masked(match[0])}", match.start()


def masked(value: str) -> str:
    """Enough of a secret to find it again, and no more."""
    return f"{value[: min(4, len(value) // 4)]}… ({len(value)} characters)"


def hidden(text: str) -> str:
    """The text with every secret in it masked, for messages that quote data."""
    for _, match in list(_matches(text)):
        text = text.replace(match[0], masked(match[0]))
    return text


def _matches(text: str) -> Iterator[tuple[SecretShape, re.Match[str]]]:
    """Without those that are a part of one found before: what follows the password in a URL is no e-mail address."""
    likely = [shape for sign, some in _NEEDLES.items() if sign in text for needle, shape in some if needle in text]
    shapes = [shape for shape in _SHAPES if shape in likely] if likely else []
    ends: list[tuple[int, int]] = []
    for shape in [*shapes, *(_NUMBERS if _DIGITS.search(text) else ())]:
        genuine = _GENUINE.get(shape.name, _random)
        for match in shape.pattern.finditer(text):
            if genuine(match[0]) and not any(match.start() < end and start < match.end() for start, end in ends):
                ends.append(match.span())
                yield shape, match
