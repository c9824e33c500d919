"""Upload files to a repository of the Hugging Face hub in one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from bp_core.errors import (
    BackpropagateError,
    BadValue,
    HubConflict,
    HubRepositoryMissing,
    HubRepositoryPublic,
    HubTokenMissing,
    HubTokenRefused,
    HubUnreachable,
    HubUploadFailed,
)
from bp_core.redact import REDACTED

_HTTP_ERROR = HfHubHTTPError.__bases__[0]  # base class in httpx or httpx2, whichever huggingface_hub uses
_BY_STATUS: dict[int, type[BackpropagateError]] = {
    401: HubTokenRefused,
    403: HubTokenRefused,
    404: HubRepositoryMissing,
    409: HubConflict,
    412: HubConflict,
}
_AGAIN = "Check the network, then run the same command again; files that arrived are not sent again."


@dataclass(frozen=True)
class Item:
    """A file to upload: its name in the repository, and its path or its bytes."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class PushResult:
    """A finished upload: the repository's URL and the commit id."""

    url: str
    commit: str


def push(repo: str, items: Sequence[Item], *, private: bool, message: str) -> PushResult:
    """Upload `items` to the model repository `repo` (owner/name). Creates it if necessary; keeps its other files.

    Large files are uploaded first, unless the hub has them already. One commit then shows all files together, so an
    interrupted upload leaves the repository unchanged. The token comes from HF_TOKEN or huggingface_hub's own file.
    Raises BadValue and the errors named Hub….
    """
    check_name(repo)
    token = get_token()
    if token is None:
        raise HubTokenMissing("there is no token to upload with.", where=repo)
    api = HfApi(token=token)
    with _translated_errors(repo, token):
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise HubRepositoryPublic("this repository is public.", where=repo)
        additions = [CommitOperationAdd(item.name, item.content) for item in items]
        done = api.create_commit(repo, additions, commit_message=message)
    return PushResult(str(url), done.oid)


def check_name(repo: str) -> None:
    """Raise BadValue unless `repo` is a valid owner/name on the hub."""
    owner, _, name = repo.rpartition("/")
    if not owner:
        raise BadValue(
            f"the repository {repo!r} has no owner.",
            fix=f"Write your name on the hub before it: --repo YOUR-NAME/{name or 'my-model'}.",
        )
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise BadValue(str(error), fix="Write --repo owner/name with letters, digits, '-', '_' and '.'.") from error


@contextmanager
def _translated_errors(repo: str, token: str) -> Iterator[None]:
    """Translate errors of huggingface_hub to ours."""
    try:
        yield
    except RuntimeError as error:  # huggingface_hub wraps the error of a large file in it
        raise _translated(error.__cause__ or error, repo, token) from error
    except (_HTTP_ERROR, OSError, ValueError) as error:
        raise _translated(error, repo, token) from error


def _translated(error: BaseException, repo: str, token: str) -> BackpropagateError:
    reason = " ".join(str(error).replace(token, REDACTED).split()) or type(error).__name__
    if isinstance(error, HfHubHTTPError):
        kind = _BY_STATUS.get(error.response.status_code, HubUploadFailed)
        return kind(f"the hub refused ({_without_signatures(reason)})", where=repo)
    if isinstance(error, _HTTP_ERROR | ConnectionError):
        return HubUnreachable(f"the hub did not answer, or the connection broke ({reason}).", where=repo, fix=_AGAIN)
    return HubUploadFailed(f"the upload failed ({reason}).", where=repo)


def _without_signatures(text: str) -> str:
    """Remove the query of upload URLs: it is a signature that allows to write there."""
    text = re.sub(r" For more information check: \S+", ":", text)
    return re.sub(r"https?://\S+", lambda match: match[0].split("?")[0], text)
