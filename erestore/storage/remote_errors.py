"""What a remote answers when it does not do what was asked, as one sentence with a next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from erestore.errors import AccessError, ErestoreError, KeyNotFoundError, RemoteError

_TAKEN_OR_BUSY = {"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"}
_REFUSED = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "UnauthorizedSSOTokenError"}


@contextmanager
def remote_errors(doing: str, url: str, key: str) -> Iterator[None]:
    """Turn whatever a file system's library raises in the body into an ErestoreError.

    Parameters
    ----------
    doing : str
        A verb: ``read``, ``write``, ``list``, ``delete``.
    url, key : str
        What it was done to.

    Raises
    ------
    KeyNotFoundError
        The key does not exist (not when writing: then it is the bucket that is missing).
    AccessError
        Credentials are missing or do not suffice.
    RemoteError
        Anything else.
    """
    try:
        yield
    except ErestoreError:
        raise
    except Exception as error:
        raise _translated(error, doing, url, key) from error


def is_taken_or_busy(error: BaseException | None) -> bool:
    """Tell whether a failed creation may mean that the key exists or is just being created by somebody else."""
    while error is not None:
        if isinstance(error, FileExistsError) or error_code(error) in _TAKEN_OR_BUSY:
            return True
        error = error.__cause__
    return False


def error_code(error: BaseException) -> str | None:
    """Return the code of an S3 error response, None if `error` is something else."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return None
    code = response.get("Error", {}).get("Code")
    return None if code is None else str(code)


def _translated(error: Exception, doing: str, url: str, key: str) -> ErestoreError:
    if isinstance(error, FileNotFoundError):
        if doing != "write":
            return KeyNotFoundError(key)
        return RemoteError(
            f"Cannot write to '{url}': there is no such bucket.", hint="Create the bucket, or correct the URL."
        )
    if isinstance(error, PermissionError) or type(error).__name__ in _REFUSED:
        return AccessError(
            f"'{url}' refuses to {doing} '{key}': {_sentence(error)}.",
            hint="Check the credentials in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).",
        )
    return RemoteError(
        f"'{url}' failed to {doing} '{key}': {_sentence(error)}.",
        hint="Check the network and the endpoint (for S3: AWS_ENDPOINT_URL), then repeat the command.",
    )


def _sentence(error: Exception) -> str:
    first = str(error).strip().split("\n", 1)[0].rstrip(".")
    return first or type(error).__name__
