"""The settings of the web page. They lie here, and not with the page, since the command line derives from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from bp_core.errors import BadValue, FileMissing
from bp_core.settings import Clash, Range, Trait, check, only_where

_WITH_SHARE = "{} is for --share."


def _half(certificate: str | None, key: str | None) -> bool:
    return (certificate is None) != (key is None)


_CLASHES = (
    *only_where("share", [False], "{} and --share exclude each other.", "container"),
    *only_where("share", [True], _WITH_SHARE, "behind", "certificate", "key", "host"),
    Clash(("certificate", "key"), _half, "certificate and key belong together: give both."),
)


@dataclass(frozen=True)
class UiConfig:
    """Settings of the web page."""

    port: Annotated[int, "The port to listen at; 0: any free one.", Range(0, 65535)] = 7862
    root: Annotated[
        str,
        "More folders from which data and models may be chosen, besides this one and the uploads; with commas between.",
        Trait.NAMES | Trait.LOCAL,
    ] = ""
    upload_limit: Annotated[float, "Largest upload in GiB.", Range(1e-6)] = 2.0
    open: Annotated[bool, "Open the page in the browser."] = True
    share: Annotated[
        bool, "Let other machines reach the page. Needs --auth, and a certificate or a proxy that has one."
    ] = False
    container: Annotated[
        bool,
        "Listen at all addresses of a container whose port is published on this machine's 127.0.0.1 alone. Needs "
        "--auth.",
    ] = False
    behind: Annotated[
        str | None, "With --share: the https address of the proxy in front, such as https://train.example.org."
    ] = None
    certificate: Annotated[str | None, "With --share: a file with the TLS certificate, PEM.", Trait.LOCAL] = None
    key: Annotated[str | None, "With --share: a file with the certificate's key, PEM.", Trait.LOCAL] = None
    host: Annotated[
        str | None,
        "With --share: the address to listen at. Default: 0.0.0.0 with a certificate, 127.0.0.1 behind a proxy.",
    ] = None

    def __post_init__(self) -> None:
        check(self, _CLASHES)
        for file in (self.certificate, self.key):
            if file and not Path(file).is_file():
                raise FileMissing("there is no such file.", where=file)
        if self.behind:
            address = urlsplit(self.behind)
            if address.scheme != "https" or not address.hostname or address.path not in ("", "/"):
                raise BadValue(f"behind is {self.behind!r}, but must be like https://name or https://name:8443.")
