"""The command ui: the web page, which is a package of its own."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from bp_core.errors import BadValue, PackageMissing, UiAuthRequired

from ..ui_config import UiConfig
from .command import Command
from .options import with_options

AUTH = "BACKPROPAGATE_UI_AUTH"  # name:password; no secret is ever an argument, which others can see in `ps`
_SHORTEST = 8  # characters of a password; 15 are better


class UiCommand(Command):
    """`--auth` is a switch, and the variable of that name holds a name and a password."""

    def get_params(self, ctx: Any) -> Any:
        parameters: Any = super().get_params(ctx)
        for parameter in parameters:
            if parameter.name == "auth":
                parameter.allow_from_autoenv = False
        return parameters


@with_options(UiConfig, parsed_by=UiCommand)
def ui(
    settings: dict[str, Any],
    auth: Annotated[
        bool, typer.Option("--auth", help=f"Ask for a name and a password: those in {AUTH} (name:password), or asked.")
    ] = False,
) -> None:
    """Open the web page: choose data, train, watch, prove, export and chat, on this machine and for you alone."""
    config = UiConfig(**settings)
    credentials = _credentials(auth)
    if (config.share or config.container) and credentials is None:
        fix = f"Set {AUTH} to name:password." if config.container else None
        raise UiAuthRequired("the page would be open to everybody who reaches this machine.", fix=fix)
    if config.share and not (config.behind or config.certificate):
        fix = "Give --certificate and --key, or --behind https://name for a proxy that has them."
        raise UiAuthRequired("without TLS a password could be read on its way.", fix=fix)
    _page()(config, credentials)


def _credentials(asked: bool) -> tuple[str, str] | None:
    """Name and password: of the variable, or typed in. Raises BadValue, which never quotes them."""
    given = os.environ.get(AUTH)
    if given:
        name, sign, password = given.partition(":")
        if not sign or not name:
            raise BadValue(f"{AUTH} must be name:password.", fix=f"Set {AUTH} to a name, a colon and a password.")
    elif asked and sys.stdin.isatty():
        name, password = input("Name: ").strip(), getpass.getpass("Password: ")
    elif asked:
        raise UiAuthRequired("there is nobody to ask for a name and a password.", fix=f"Set {AUTH} to name:password.")
    else:
        return None
    if len(password) < _SHORTEST:
        raise BadValue(f"the password is shorter than {_SHORTEST} characters.", fix="Take a longer one; 15 are good.")
    return name, password


def _page() -> Callable[[UiConfig, tuple[str, str] | None], None]:
    """What serves the page. Raises PackageMissing."""
    for point in entry_points(group="backpropagate.apps", name="ui"):
        serve: Callable[[UiConfig, tuple[str, str] | None], None] = point.load()
        return serve
    raise PackageMissing("the page is a package of its own.", fix='Install it: pip install "backpropagate[ui]".')
