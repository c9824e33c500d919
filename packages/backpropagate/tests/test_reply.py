"""An answer that comes in piece by piece is taken apart, and the next token is drawn by chance."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from backpropagate.export.reply import Kind, Reply, ReplyText
from backpropagate.export.sampling import sampler

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'


XML = "<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>"
HARMONY = ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Köln"}<|call|>'
ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
SCHEMAS = {"get_weather": {"type": "object", "properties": {"city": {"type": "string"}}}}
SPECIAL = re.compile(r"<\|\w+\|>|.", re.DOTALL)  # such a token comes whole


def streamed(text: str, opened: bool = False) -> tuple[Reply, str, str]:
    """The reply, and what was told of thought and text while it came in, a character at a time."""
    told: dict[Kind, str] = {"thought": "", "text": ""}

    def on_piece(kind: Kind, piece: str) -> None:
        told[kind] += piece

    parts = ReplyText(opened, SCHEMAS, on_piece)
    for match in SPECIAL.finditer(text):
        parts.grown(text[: match.end()])
    return parts.done(text), told["thought"], told["text"]


@pytest.mark.parametrize(
    ("text", "opened", "thought", "said", "calls"),
    [
        ("Rain.", False, "", "Rain.", 0),
        ("<think>\nLook out.\n</think>\n\nRain.", False, "Look out.", "Rain.", 0),
        ("Look out.\n</think>\n\nRain.", True, "Look out.", "Rain.", 0),
        (CALL, False, "", "", 1),
        (f"Let me see.\n{CALL}\n{CALL}", False, "", "Let me see.", 2),
        (f"<think>Hm.</think>{CALL}", False, "Hm.", "", 1),
        ('{"name": "get_weather", "parameters": {"city": "Köln"}}', False, "", "", 1),
        ('{"city": "Köln"}', False, "", '{"city": "Köln"}', 0),
        ("a < b, <tool and <thi", False, "", "a < b, <tool and <thi", 0),
        (XML, False, "", "", 1),
        (f"<think>Hm.</think>I look.\n{XML}\n{XML}", False, "Hm.", "I look.", 2),
        (XML.replace("tool_call", "b").replace("<b>\n", "").replace("\n</b>", ""), False, "", "", 1),
        ('<function=get_weather>{"city": "Köln"}</function>', False, "", "", 1),
        (HARMONY, False, "", "", 1),
        (ANALYSIS + HARMONY, False, "Hm.", "", 1),
        (f"{ANALYSIS}<|channel|>final<|message|>Rain.<|return|>", False, "Hm.", "Rain.", 0),
        ("<|channel|>final<|message|>Rain.", False, "", "Rain.", 0),
        ("to=5 is an answer", False, "", "to=5 is an answer", 0),
        ("to", False, "", "to", 0),
        ("<tool_call>{oh}</tool_call>", False, "", "<tool_call>{oh}</tool_call>", 0),
    ],
)
def test_thought_text_and_calls_are_told_apart(text: str, opened: bool, thought: str, said: str, calls: int) -> None:
    reply, told_thought, told_text = streamed(text, opened)
    assert (reply.thought, reply.text, len(reply.calls), reply.closed) == (thought, said, calls, True)
    assert (told_thought, told_text.strip()) == (thought, said)
    assert all(call == ("get_weather", {"city": "Köln"}) for call in reply.calls)


def test_a_thought_that_does_not_close_has_no_answer() -> None:
    reply, thought, said = streamed("<think>\nLook, and look")
    assert not reply.closed and (reply.text, said) == ("", "") and reply.thought == thought == "Look, and look"
    reply, thought, said = streamed("<|channel|>analysis<|message|>Look, and look")
    assert not reply.closed and (reply.text, said) == ("", "") and reply.thought == thought == "Look, and look"


def test_a_reply_is_openais_message_and_a_turn_for_templates() -> None:
    reply, _, _ = streamed(f"<think>Hm.</think>{CALL}")
    message = reply.as_dict()
    assert message["reasoning_content"] == "Hm." and message["content"] == ""
    (call,) = message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}
    assert reply.turn()["tool_calls"][0]["function"]["arguments"] == {"city": "Köln"}
    assert Reply("Hi").as_dict() == {"role": "assistant", "content": "Hi"}


LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def drawn(temperature: float, top_p: float, count: int = 2000) -> Counter[int]:
    pick = sampler(temperature, top_p, 7)
    assert pick
    return Counter(pick(LOGITS) for _ in range(count))


def test_temperature_0_is_greedy() -> None:
    assert sampler(0, 1.0, None) is None


def test_tokens_are_drawn_as_likely_as_they_are() -> None:
    found = drawn(1, 1)
    assert abs(found[0] / 2000 - 0.5) < 0.05 and abs(found[3] / 2000 - 0.05) < 0.02
    assert drawn(0.1, 1)[0] > 1950 and drawn(50, 1)[3] > 400


def test_top_p_leaves_the_unlikely_out() -> None:
    assert drawn(1, 0.6).keys() == {0, 1} and drawn(1, 1e-6).keys() == {0}
    assert abs(drawn(1, 0.6)[0] / 2000 - 0.5 / 0.8) < 0.05


def test_a_seed_draws_the_same_again() -> None:
    one, other = sampler(1, 1, 3), sampler(1, 1, 3)
    assert one and other and [one(LOGITS) for _ in range(30)] == [other(LOGITS) for _ in range(30)]
