import hashlib
import json
import string
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_core.errors import BrokenJson
from bp_core.redact import REDACTED, redact, redact_all


def chars(letters, low, high):
    return st.text(letters, min_size=low, max_size=high)


UPPER = string.ascii_uppercase + "234567"
ALNUM = string.ascii_letters + string.digits
TOKENS = {
    "hugging face": chars(ALNUM, 34, 37).map(lambda x: f"hf_{x}"),
    "openai": chars(ALNUM, 32, 48).map(lambda x: f"sk-{x}"),
    "openai project": chars(ALNUM + "_-", 40, 80).map(lambda x: f"sk-proj-{x}"),
    "anthropic": chars(ALNUM + "_-", 40, 80).map(lambda x: f"sk-ant-api03-{x}"),
    "github": st.builds("gh{}_{}".format, st.sampled_from("pousr"), chars(ALNUM, 36, 40)),
    "github fine-grained": chars(ALNUM + "_", 60, 82).map(lambda x: f"github_pat_{x}"),
    "aws id": st.builds("{}{}".format, st.sampled_from(["AKIA", "ASIA"]), chars(UPPER, 16, 16)),
    "google": chars(ALNUM + "_-", 35, 35).map(lambda x: f"AIza{x}"),
    "google oauth": chars(ALNUM + "_-", 40, 80).map(lambda x: f"ya29.{x}"),
    "slack": st.builds("xoxb-{}-{}".format, chars(string.digits, 11, 12), chars(ALNUM, 24, 24)),
    "web token": st.builds("eyJ{}.eyJ{}.{}".format, *[chars(ALNUM + "_-", 20, 40)] * 3),
}  # fmt: skip
# How a secret without a shape of its own stands in a text: what is around it gives it away.
AROUND = {
    "bearer": ("Authorization: Bearer {}", chars(ALNUM + "._~+/-", 20, 60)),
    "basic": ("Authorization: Basic {}", chars(ALNUM + "+/", 20, 60)),
    "url": ("https://user:{}@example.com/simple", chars(ALNUM + "%!$*._-", 4, 30)),
    "url token": ("https://{}@example.com/x.git", chars(ALNUM, 16, 40)),
    "query": ("https://host/blob?sv=2024&sig={}&se=1", chars(ALNUM + "%+/", 8, 60)),
    "aws secret": ("aws_secret_access_key = {}", chars(ALNUM + "+/", 40, 40)),
    "azure": ("AccountName=x;AccountKey={}==;EndpointSuffix=y", chars(ALNUM + "+/", 86, 86)),
    "json": ('{{"api_key": "{}", "other": 1}}', chars(ALNUM, 8, 60)),
    "escaped json": ('{{\\"password\\": \\"{}\\"}}', chars(ALNUM, 8, 60)),
    "private key": (
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
        chars(ALNUM + "+/\n", 60, 200).filter(lambda x: len(x.strip()) > 40),
    ),
}
ANY = st.text(max_size=40)


@given(
    before=ANY,
    after=ANY,
    token=st.one_of(*TOKENS.values()),
    edge=st.sampled_from(["", " ", "\n", "'", '"', "=", "\\n"]),
)
def test_a_token_of_known_shape_never_survives(before, after, token, edge):
    text = before.rstrip(ALNUM + "\\") + edge + token + (edge or " ") + after
    assert token not in redact(text)
    assert REDACTED in redact(text)


@given(before=ANY, after=ANY, kind=st.sampled_from(sorted(AROUND)), data=st.data())
def test_a_secret_told_by_its_surroundings_never_survives(before, after, kind, data):
    pattern, secrets = AROUND[kind]
    secret = data.draw(secrets)
    found = redact(f"{before}\n{pattern.format(secret)}\n{after}")
    assert secret not in found.replace(before, "").replace(after, "") and REDACTED in found


ORDINARY = [
    "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B",
    "/home/me/.cache/huggingface/hub/models--Qwen--Qwen2.5-7B/snapshots/a09a35458c702b33eeacc393d103063234e8bc28",
    hashlib.sha256(b"x").hexdigest(), "git+https://example.com/o/n.git@a09a35458c702b33eeacc393d103063234e8bc28",
    "ssh://git@example.com/owner/name.git", "http://localhost:8080/v1?tokens=5", "task-oriented-dialogue-dataset-v2",
    "disk-usage-of-the-output-folder", "risk-adjusted-returns-0123456789", "tokens: 4012, targets: 1199",
    "terminator token: <|im_end|>", "max_tokens=512", "the bearer of this letter", "tokenizer.json was altered",
    "keyword = value", "C:\\Users\\me\\output\\runs\\20261124-210228-8c75", "sk-learn-feature-selection",
    "input_ids", "hf_transfer", "hf_model_name_or_path", "api_key=None", "user@example.com", "eyJ", "data.sha256",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text) == text


@given(
    st.binary(min_size=1).map(lambda b: hashlib.sha256(b).hexdigest()), st.lists(st.sampled_from(ORDINARY), max_size=6)
)
def test_hashes_paths_and_names_together_stay_as_they_are(digest, words):
    text = " ".join([*words, digest])
    assert redact(text) == text


@given(ANY, st.one_of(*TOKENS.values()))
def test_redacting_twice_changes_nothing_more(text, token):
    once = redact(f"{text} {token} password={token}")
    assert redact(once) == once


@pytest.mark.parametrize("piece", ["a-", "eyJ-", "sk-", "://a", "x://a:", "eyJaaaaaaaaaa.eyJ-", "Bearer "])
def test_long_texts_take_no_longer_than_their_length(piece):
    began = process_time()
    redact(piece * (300_000 // len(piece)))
    assert process_time() - began < 3


def test_values_of_secret_variables_are_secret_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "correct horse battery")
    monkeypatch.setenv("SHORT_KEY", "yes")
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    said = redact("it said: correct horse battery, yes, on qwertyuiop")
    assert said == f"it said: {REDACTED}, yes, on qwertyuiop"


def test_nested_values_are_redacted_and_keep_their_shape():
    token = "hf_" + "a1B2" * 9
    value = {"list": [token, 1, None, {"deep": f"x {token}"}], token: True, "number": 1.5}
    found = redact_all(value)
    assert token not in json.dumps(found)
    assert found["list"][1:3] == [1, None] and found["number"] == 1.5 and found[REDACTED] is True


def test_errors_carry_no_secrets():
    token = "hf_" + "a1B2" * 9
    error = BrokenJson(f"line holds {token}.", where=f"https://me:{token}@host/x:3")
    assert token not in str(error) + json.dumps(error.as_dict()) + repr(error)
