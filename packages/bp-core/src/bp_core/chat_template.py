"""What chat templates may use besides Jinja's own, as transformers gives it; packages with jinja2 compile them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

# What a template can raise besides Jinja's own errors: it computes with the values of the conversation.
RENDERING_ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)


def equip(environment: Any, today: datetime | None = None) -> None:
    """Give a Jinja environment what templates expect. `today` is what they take for the date; None: the clock's."""
    environment.trim_blocks = True
    environment.lstrip_blocks = True
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: (today or datetime.now()).strftime(form)


def _raise_exception(message: str) -> NoReturn:
    raise ValueError(message)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter escapes for HTML; templates want plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
