"""A name and a password, kept as a scrypt hash, and how often they may be tried."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import deque
from dataclasses import dataclass, field

_A_MINUTE = 5  # tries an address
_IN_ALL = 30  # tries a minute of all addresses together
_WINDOW = 60.0  # seconds


@dataclass
class Password:
    """Who may sign in. `mark` changes with the password, so that sessions of an older one are not taken."""

    name_hash: bytes
    password_hash: bytes
    salt: bytes
    mark: str
    _tries: deque[tuple[float, str]] = field(default_factory=deque)

    @classmethod
    def of(cls, name: str, password: str) -> Password:
        salt = secrets.token_bytes(16)
        fixed = hashlib.sha256(f"{name}\0{password}".encode()).digest()
        mark = _scrypt(fixed.hex(), b"mark of a password").hex()[:16]
        return cls(hashlib.sha256(name.encode()).digest(), _scrypt(password, salt), salt, mark)

    def wait(self, address: str) -> int:
        """Seconds until this address may try again; 0: now, and that counts as a try."""
        now = time.monotonic()
        while self._tries and now - self._tries[0][0] > _WINDOW:
            self._tries.popleft()
        mine = [moment for moment, who in self._tries if who == address]
        if len(mine) >= _A_MINUTE:
            return int(_WINDOW - (now - mine[0])) + 1
        if len(self._tries) >= _IN_ALL:
            return int(_WINDOW - (now - self._tries[0][0])) + 1
        self._tries.append((now, address))
        return 0

    def fits(self, name: str, password: str) -> bool:
        """Whether name and password are right; it takes as long when the name is wrong."""
        right_name = hmac.compare_digest(hashlib.sha256(name.encode()).digest(), self.name_hash)
        right_password = hmac.compare_digest(_scrypt(password, self.salt), self.password_hash)
        return right_name and right_password


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)
