"""Secrets and personal data: what is found, what is only alike, and that nothing is shown whole."""

from time import process_time

import pytest

from bp_data.check.secrets import hidden, iban, luhn, masked, secrets

MANY = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
FOUND = [
    ("a private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
    ("an AWS access key", "AKIA" + "QWERTY12345ZXCVB"),
    ("a Google API key", "AIza" + (MANY * 2)[:35]),
    ("a Google OAuth token", "ya29." + MANY),
    ("a Hugging Face token", "hf_" + (MANY * 2)[:34]),
    ("an API key (sk-…)", "sk-proj-" + MANY),
    ("a GitHub token", "ghp_" + (MANY * 2)[:36]),
    ("a GitHub token", "github_pat_" + (MANY * 3)[:60]),
    ("a GitLab token", "glpat-" + MANY),
    ("a PyPI token", "pypi-" + (MANY * 3)[:60]),
    ("a Weights & Biases key", "wandb_v1_" + MANY),
    ("a Slack token", "xoxb-" + MANY),
    ("a JSON web token", f"eyJ{MANY}.eyJ{MANY}.{MANY}"),
    ("a bearer token", f"Bearer {MANY}"),
    ("a password in a URL", "postgres://jane:" + "tr0ub4dor@db.internal/x"),
    ("an e-mail address", "jane.doe@bakery.test"),
    ("a phone number", "+49 30 1234567"),
    ("a phone number", "(415) 555-2671"),
    ("a card number", "4111 1111 1111 1111"),
    ("a bank account number", "DE89 3704 0044 0532 0130 00"),
]
ALIKE = [
    "-----BEGIN CERTIFICATE-----",
    "AKIAIOSFODNN7EXAMPLE",
    "sk-learn-is-a-library-with-many-words",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxx1X",
    "hf_transfer",
    "postgres://user:password@localhost/db",
    "https://{user}:{password}@host",
    "http://localhost:8080/a@b",
    "someone@example.com",
    "@decorator and a@b",
    "4111 1111 1111 1112",
    "0000 0000 0000 0000",
    "DE88 3704 0044 0532 0130 00",
    "2024-11-24 12:30:00",
    "3.14159265358979323846",
    "1234567890123456789012345",
    "The bearer of good news",
]


@pytest.mark.parametrize(("name", "value"), FOUND)
@pytest.mark.parametrize("around", ["{}", "It is {}, then.", "a\n{}\nb", '"{}"'])
def test_a_secret_is_found_and_never_shown_whole(name: str, value: str, around: str) -> None:
    ((kind, message, offset),) = secrets(around.format(value))
    assert kind in ("secret", "personal-data") and message.startswith(f"{name}: ")
    assert value not in message and offset == around.index("{")
    assert value not in hidden(around.format(value))


def test_of_a_private_key_no_line_is_quoted() -> None:
    key = f"-----BEGIN PRIVATE KEY-----\n{MANY}\n-----END PRIVATE KEY-----"
    assert MANY not in hidden(f"a\n{key}\nb") and hidden(f"a\n{key}\nb").endswith("\nb")


@pytest.mark.parametrize("text", ALIKE)
def test_what_only_looks_like_one_is_not(text: str) -> None:
    assert list(secrets(text)) == []


def test_of_a_short_secret_little_is_shown() -> None:
    assert masked("abcd") == "a… (4 characters)" and masked("a" * 40).startswith("aaaa… ")


def test_checksums() -> None:
    assert luhn("79927398713") and not luhn("79927398710")
    assert iban("GB82 WEST 1234 5698 7654 32") and not iban("GB82 WEST 1234 5698 7654 33")


@pytest.mark.parametrize(
    "piece", ["a", "a-", "a@", "1.", "eyJ-", "sk-", "://a", "x:", "-----BEGIN A ", "AB12 ", "Bearer "]
)
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    began = process_time()
    list(secrets(piece * (300_000 // len(piece))))
    assert process_time() - began < 3
