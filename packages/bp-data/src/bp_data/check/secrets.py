"""Secrets and personal data in text: found by form and, where there is one, by checksum; never shown whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Spot = tuple[str, str, int]  # the kind of finding, what to say, and where in the text it begins


def _any(value: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Form:
    """How something secret looks. A text without one of the `needles` holds none; looking for them is quicker."""

    kind: str
    name: str
    needles: tuple[str, ...]
    pattern: re.Pattern[str]
    genuine: Callable[[str], bool] = _any


def _random(value: str) -> bool:
    """Not a placeholder such as sk-xxxxxxxx or …EXAMPLE."""
    return len(set(value)) > 9 and "EXAMPLE" not in value.upper()


_PLACEHOLDERS = {"pass", "passwd", "password", "pwd", "secret", "user", "username", "xxx", "xxxx", "changeme"}


def _password(url: str) -> bool:
    word = url.rpartition("@")[0].rpartition(":")[2]
    return word.lower() not in _PLACEHOLDERS and len(set(word)) > 2


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


def _secret(name: str, pattern: str, *needles: str, genuine: Callable[[str], bool] = _random) -> Form:
    return Form("secret", name, needles, re.compile(pattern), genuine)


def _personal(name: str, pattern: str, *needles: str, genuine: Callable[[str], bool] = _any) -> Form:
    return Form("personal-data", name, needles, re.compile(pattern), genuine)


_FORMS = (
    _secret("a private key", r"-----BEGIN (?:[A-Z\d]+ )*PRIVATE KEY(?: BLOCK)?-----", "-----BEGIN", genuine=_any),
    _secret("an AWS access key", r"\b(?:AKIA|ASIA)[A-Z\d]{16}\b", "AKIA", "ASIA"),
    _secret("a Google API key", r"\bAIza[\w-]{35}", "AIza"),
    _secret("a Google OAuth token", r"\bya29\.[\w-]{20,}", "ya29"),
    _secret("a Hugging Face token", r"\bhf_[A-Za-z\d]{30,}\b", "hf_"),
    _secret("an API key (sk-…)", r"\bsk-(?=[\w-]{0,200}\d)(?=[\w-]{0,200}[A-Z])[\w-]{20,200}", "sk-"),
    _secret("a GitHub token", r"\b(?:gh[opsur]_[A-Za-z\d]{36,}|github_pat_\w{50,})", "ghp_", "gho_", "ghs_", "ghu_",
            "ghr_", "github_pat_"),
    _secret("a Slack token", r"\bxox[abeoprs]-[\w-]{10,}", "xox"),
    _secret("a JSON web token", r"\beyJ[\w-]{8,400}\.eyJ[\w-]{8,2000}\.[\w-]{16,2000}", "eyJ"),
    _secret("a bearer token", r"\b[Bb]earer +[\w.~+/-]{20,}=*", "earer "),
    _secret("a password in a URL", r"\b[a-zA-Z][\w+.-]{0,20}://[^\s/:@<>{}$*]{1,200}:[^\s/:@<>{}$*]{1,200}@[\w.-]{1,200}",
            "://", genuine=_password),
    _personal("an e-mail address", r"\b[\w.+-]{1,64}@[A-Za-z\d-]{1,63}(?:\.[A-Za-z\d-]{1,63}){0,8}\.[A-Za-z]{2,24}\b",
              "@", genuine=_address),
)  # fmt: skip
# These have no needle: a run of digits is looked for first.
_NUMBERS = (
    _personal(
        "a phone number",
        r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,11}"
        r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}([.-])\d{3}\1\d{4})(?![\w-])",
    ),
    _personal(
        "a card number", r"(?<![\w-])(?:4|5[1-5]|2[2-7]|3[47]|6(?:011|5))(?:[ -]?\d){11,17}(?![\w-])", genuine=luhn
    ),
    _personal("a bank account number", r"\b[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,3})?\b", genuine=iban),
)


def _by_rarest_sign(forms: Iterable[Form]) -> dict[str, list[tuple[str, Form]]]:
    """The needles under the sign in them that text has least often: looking for a single one is ten times quicker."""
    found: dict[str, list[tuple[str, Form]]] = {}
    for form in forms:
        for needle in form.needles:
            sign = min(needle, key=lambda sign: (sign.isspace(), sign.isalnum(), sign.islower()))
            found.setdefault(sign, []).append((needle, form))
    return found


_NEEDLES = _by_rarest_sign(_FORMS)
_DIGITS = re.compile(r"\d[\d .()-]{2,}\d")


def secrets(text: str) -> Iterator[Spot]:
    """The secrets and personal data in a text, each masked."""
    for form, match in _matches(text):
        yield form.kind, f"{form.name}: {masked(match[0])}", match.start()


def masked(value: str) -> str:
    """Enough of a secret to find it again, and no more."""
    return f"{value[: min(4, len(value) // 4)]}… ({len(value)} characters)"


def hidden(text: str) -> str:
    """The text with every secret in it masked, for messages that quote data."""
    for _, match in list(_matches(text)):
        text = text.replace(match[0], masked(match[0]))
    return text


def _matches(text: str) -> Iterator[tuple[Form, re.Match[str]]]:
    """Without those that are a part of one found before: what follows the password in a URL is no e-mail address."""
    likely = [form for sign, some in _NEEDLES.items() if sign in text for needle, form in some if needle in text]
    forms = [form for form in _FORMS if form in likely] if likely else []
    ends: list[tuple[int, int]] = []
    for form in [*forms, *(_NUMBERS if _DIGITS.search(text) else ())]:
        for match in _genuine(form, text):
            if not any(match.start() < end and start < match.end() for start, end in ends):
                ends.append(match.span())
                yield form, match


def _genuine(form: Form, text: str) -> Iterator[re.Match[str]]:
    return (match for match in form.pattern.finditer(text) if form.genuine(match[0]))
