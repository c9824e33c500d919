"""What one running page knows of itself: its address, who may use it, and which folders it shows."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from backpropagate.ui_config import UiConfig
from bp_core.folders import home

from .folders import Folders
from .jobs import Jobs
from .passwords import Password
from .sessions import Sessions


@dataclass(frozen=True)
class Site:
    """`hosts` are the values of the Host header that are answered, `origins` those of Origin that may change anything.

    `secure`: browsers reach it over TLS, so cookies are for TLS only.
    """

    config: UiConfig
    port: int
    hosts: frozenset[str]
    origins: frozenset[str]
    secure: bool
    folders: Folders
    sessions: Sessions
    jobs: Jobs
    password: Password | None = None
    here: Path = field(default_factory=Path.cwd)

    @classmethod
    def of(cls, config: UiConfig, port: int, credentials: tuple[str, str] | None = None) -> Site:
        """The page for these settings, listening at `port`."""
        hosts, scheme = _hosts(config, port)
        place = home() / "ui"
        password = Password.of(*credentials) if credentials else None
        keys = [Path(file) for file in (config.key, config.certificate) if file]
        return cls(
            config=config,
            port=port,
            hosts=hosts,
            origins=frozenset(f"{scheme}://{host}" for host in hosts),
            secure=scheme == "https",
            folders=Folders.of(config.root, place.parent, keys),
            sessions=Sessions(place, password.mark if password else ""),
            jobs=Jobs(place.parent / "jobs"),
            password=password,
        )

    @property
    def cookie(self) -> str:
        """The name of the session's cookie: with the port, since cookies do not tell ports apart."""
        return f"__Host-bp-{self.port}" if self.secure else f"bp-{self.port}"

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        if self.config.behind:
            return self.config.behind.rstrip("/")
        names = [host for host in self.hosts if not host.startswith("localhost")]
        return f"{'https' if self.secure else 'http'}://{names[0]}"


def _hosts(config: UiConfig, port: int) -> tuple[frozenset[str], str]:
    """The names under which it is reached, and the scheme."""
    if config.behind:
        return frozenset([urlsplit(config.behind).netloc.lower()]), "https"
    if config.share:
        return frozenset([_with_port(socket.getfqdn().lower(), port, 443)]), "https"
    return frozenset(_with_port(name, port, 80) for name in ("127.0.0.1", "localhost")), "http"


def _with_port(name: str, port: int, usual: int) -> str:
    return name if port == usual else f"{name}:{port}"
