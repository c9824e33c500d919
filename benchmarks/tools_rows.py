"""Rows with tools, made from a few tables: examples/tools.jsonl, and examples/tools-held-out.jsonl.

    uv run python benchmarks/tools_rows.py

Each row lists two tools. In three of four one of them is asked for, in the last no call is right. Six tools are only in
held-out rows, so that those tell whether calling was learned, and not a list of tools.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 7
TRAINING, HELD_OUT = 320, 80  # rows
_WITHOUT_CALL = 4  # one row in so many
EXAMPLES = Path(__file__).parent.parent / "examples"
CITIES = ("Oslo", "Lima", "Köln", "Porto", "Kyoto", "Accra", "Turin", "Quito", "Perth", "Galway", "Bergen", "Hanoi")
NAMES = ("Ada", "Jonas", "Mira", "Otto", "Lucía", "Tariq", "Wei", "Sofie", "Emeka", "Paul", "Ines", "Noor")
THINGS = ("rye loaf", "oat roll", "plum cake", "seed loaf", "honey cake", "barley bun", "almond crescent", "poppy roll")
TOPICS = ("volcanoes", "sourdough", "tide tables", "jazz", "compost", "chess openings", "glaciers", "bees")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TONGUES = ("French", "Spanish", "Polish", "Swahili", "Dutch", "Korean")
WORDS = ("window", "harbour", "yeast", "thunder", "lantern", "meadow", "anchor", "copper")
NUMBERS = tuple(range(2, 13))
AMOUNTS = (15, 20, 35, 48, 60, 75, 90, 120, 150, 240)
Slot = tuple[str, tuple[Any, ...]]  # JSON type, and values to ask with


@dataclass(frozen=True)
class Tool:
    """A tool: its parameters, and ways to ask for it with their names in braces."""

    name: str
    description: str
    slots: dict[str, Slot]
    asked: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        """The tool as OpenAI writes it, in the form that servers hand on."""
        properties = {name: {"type": kind} for name, (kind, _) in self.slots.items()}
        parameters = {"type": "object", "required": list(self.slots), "properties": properties}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


CITY: Slot = ("string", CITIES)
PERSON: Slot = ("string", NAMES)
DAY: Slot = ("string", DAYS)
COUNT: Slot = ("integer", NUMBERS)
TOOLS = (
    Tool("get_weather", "The weather in a city.", {"city": CITY},
         ("What is the weather in {city}?", "Do I need an umbrella in {city}?", "How warm is it in {city} now?")),
    Tool("get_time", "The local time in a city.", {"city": CITY},
         ("What time is it in {city}?", "How late is it in {city} right now?")),
    Tool("order_bread", "Order baked goods.", {"item": ("string", THINGS), "count": COUNT},
         ("Please order {count} of the {item}.", "I'd like {count} times {item}, please order.")),
    Tool("send_message", "Send a short text to a person.",
         {"to": PERSON, "text": ("string", ("I am late", "See you soon", "Call me", "Bring salt"))},
         ('Tell {to}: "{text}".', 'Send {to} the message "{text}".')),
    Tool("set_alarm", "Set an alarm at a full hour.", {"hour": ("integer", (5, 6, 7, 8, 9, 22)), "day": DAY},
         ("Wake me at {hour} on {day}.", "Set an alarm for {day} at {hour} o'clock.")),
    Tool("search_books", "Find books on a topic.", {"topic": ("string", TOPICS), "limit": COUNT},
         ("Find {limit} books on {topic}.", "Show me {limit} books about {topic}.")),
    Tool("convert_currency", "Convert an amount of money.",
         {"amount": ("number", AMOUNTS), "to": ("string", ("EUR", "USD", "NOK", "JPY"))},
         ("How much is {amount} pounds in {to}?", "Convert {amount} pounds to {to}.")),
    Tool("translate_word", "Translate a word.",
         {"word": ("string", WORDS), "language": ("string", TONGUES)},
         ('What is "{word}" in {language}?', 'Translate "{word}" into {language}.')),
    Tool("turn_on_light", "Turn on the light of a room.",
         {"room": ("string", ("kitchen", "hall", "cellar", "attic", "bathroom", "study"))},
         ("Turn on the light in the {room}.", "It is dark in the {room}, light please.")),
    Tool("add_to_list", "Add something to the shopping list.",
         {"item": ("string", THINGS)},
         ("Put {item} on my shopping list.", "Add {item} to the shopping list.")),
    Tool("play_music", "Play music of a kind.",
         {"genre": ("string", ("jazz", "folk", "opera", "techno", "blues", "tango"))},
         ("Play some {genre}.", "I want to hear {genre}.")),
    Tool("book_train", "Book a seat on a train.", {"city": CITY, "day": DAY},
         ("Book me a train to {city} on {day}.", "I need a train seat to {city} for {day}.")),
    Tool("get_stock", "How many of an item are in stock.", {"item": ("string", THINGS)},
         ("How many of the {item} are left in stock?", "Is there any {item} in stock?")),
    Tool("add_contact", "Save a person's phone number.",
         {"name": PERSON, "number": ("string", ("555 0101", "555 0142", "555 0177", "555 0190"))},
         ("Save {name}'s number, {number}.", "Add {name} with the number {number} to my contacts.")),
    Tool("start_timer", "Start a timer.", {"minutes": ("integer", AMOUNTS)},
         ("Start a timer of {minutes} minutes.", "Remind me in {minutes} minutes.")),
    Tool("find_route", "Find the way between two cities.", {"start": CITY, "end": CITY},
         ("How do I get from {start} to {end}?", "Find a route from {start} to {end}.")),
)  # fmt: skip
UNSEEN = (
    Tool("water_plants", "Water the plants of a room.",
         {"room": ("string", ("balcony", "hall", "study", "porch"))},
         ("Water the plants in the {room}.", "The plants in the {room} are dry.")),
    Tool("rent_bike", "Rent bicycles in a city.", {"city": CITY, "count": COUNT},
         ("Rent {count} bikes in {city}.", "We need {count} bicycles in {city}.")),
    Tool("get_tide", "The next high tide at a harbour.", {"harbour": ("string", CITIES)},
         ("When is high tide in {harbour}?", "Tell me the next high tide at {harbour}.")),
    Tool("invite_guest", "Invite a person for a day.", {"guest": PERSON, "day": DAY},
         ("Invite {guest} for {day}.", "Ask {guest} to come on {day}.")),
    Tool("set_oven", "Heat the oven.", {"degrees": ("integer", (160, 180, 200, 220, 240))},
         ("Heat the oven to {degrees} degrees.", "Set the oven to {degrees}.")),
    Tool("find_recipe", "Find a recipe with an ingredient.",
         {"ingredient": ("string", ("rye", "plums", "honey", "leeks", "beans", "figs"))},
         ("Find me a recipe with {ingredient}.", "What can I cook with {ingredient}?")),
)  # fmt: skip
# Questions that no tool answers, and what to say.
TALK = (
    ("Thank you, that was all.", "You are welcome."),
    ("Good morning!", "Good morning! What can I do for you?"),
    ("Who are you?", "I am an assistant that can use a few tools."),
    ("What is 2 plus 2?", "2 plus 2 is 4."),
    ("Say something nice.", "You ask good questions."),
    ("How many days has a week?", "A week has seven days."),
    ("What colour is the sky?", "On a clear day the sky is blue."),
    ("Goodbye.", "Goodbye, and take care."),
    ("Do you ever sleep?", "No, I am here whenever you ask."),
    ("Is a whale a fish?", "No, a whale is a mammal."),
    ("What comes after Tuesday?", "Wednesday comes after Tuesday."),
    ("I am bored.", "Shall we talk about something you like?"),
)


def rows(count: int, asked: tuple[Tool, ...], random_: random.Random) -> Iterator[dict[str, Any]]:
    """Rows in OpenAI's form, arguments as text, no two with the same question and the same tools."""
    seen = set()
    while len(seen) < count:
        tools = random_.sample(asked, 2)
        turns = _talk(random_) if len(seen) % _WITHOUT_CALL == 0 else _call(random_.choice(tools), random_)
        row = {"tools": [tool.schema() for tool in tools], "messages": turns}
        text = json.dumps(row, ensure_ascii=False)
        if text not in seen:
            seen.add(text)
            yield row


def _talk(random_: random.Random) -> list[dict[str, Any]]:
    question, answer = random_.choice(TALK)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _call(tool: Tool, random_: random.Random) -> list[dict[str, Any]]:
    arguments = {name: random_.choice(values) for name, (_, values) in tool.slots.items()}
    question = random_.choice(tool.asked).format(**arguments)
    function = {"name": tool.name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return [{"role": "user", "content": question}, call]


def write(path: Path, found: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    random_ = random.Random(SEED)
    training = list(rows(TRAINING, TOOLS, random_))
    write(EXAMPLES / "tools.jsonl", training)
    known = {json.dumps(row, ensure_ascii=False) for row in training}
    seen = [row for row in rows(HELD_OUT, TOOLS, random_) if json.dumps(row, ensure_ascii=False) not in known]
    write(EXAMPLES / "tools-held-out.jsonl", [*seen[: HELD_OUT // 2], *rows(HELD_OUT // 2, UNSEEN, random_)])


if __name__ == "__main__":
    main()
