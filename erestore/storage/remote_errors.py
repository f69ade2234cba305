"""What a remote answers when it does not do what was asked, as one sentence with a next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from erestore.errors import AccessError, ErestoreError, KeyNotFoundError, RemoteError, UsageError

_TAKEN_OR_BUSY = {"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"}

_CREDENTIALS = "Check the credentials in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
_RENEW = "Get new credentials (for example with `aws sso login`), then repeat the command."
_REGION = "Set the bucket's own region (for S3: AWS_DEFAULT_REGION), then repeat the command."
_QUOTA = "Raise the quota, or free space: delete names, then `erestore gc --reflog-days 0 --grace-days 0`."
_NETWORK = "Check the network and the endpoint (for S3: AWS_ENDPOINT_URL), then repeat the command."

_ANSWERS: dict[str, tuple[type[ErestoreError], str]] = {
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"), (AccessError, _RENEW)
    ),
    "RequestTimeTooSkewed": (AccessError, "Set the clock of this machine, then repeat the command."),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "301"),
        (RemoteError, _REGION),
    ),
    **dict.fromkeys(
        ("QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"),
        (AccessError, _QUOTA),
    ),
    "InvalidBucketName": (UsageError, "Correct the name of the bucket in the URL."),
    # What the library itself raises, by the name of the class.
    **dict.fromkeys(
        ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"), (AccessError, _CREDENTIALS)
    ),
    **dict.fromkeys(("TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError"), (AccessError, _RENEW)),
    "ProfileNotFound": (AccessError, "Correct AWS_PROFILE, or add that profile to ~/.aws/config."),
    "ParamValidationError": (UsageError, "Correct the name of the bucket in the URL."),
    "InvalidRegionError": (UsageError, _REGION),
    "NoRegionError": (RemoteError, _REGION),
}
"""What becomes of an error, and what to do next, by its code in the answer or its class."""


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
        Credentials are missing, do not suffice, or do not count any more.
    UsageError
        The URL names what cannot be, such as a bucket with capitals.
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
    """Return whether a failed creation may mean that the key exists or is just being created by somebody else."""
    while error is not None:
        if isinstance(error, FileExistsError) or error_code(error) in _TAKEN_OR_BUSY:
            return True
        error = error.__cause__
    return False


def error_code(error: BaseException) -> str | None:
    """Return the code of an S3 error response, None if `error` is something else."""
    return _answer(error).get("Code")


def _answer(error: BaseException) -> dict[str, str]:
    """Return the error that an S3 response speaks of, empty if `error` is something else."""
    response = getattr(error, "response", None)
    answer = response.get("Error", {}) if isinstance(response, dict) else {}
    return {name: str(value) for name, value in answer.items() if value is not None}


def _translated(error: Exception, doing: str, url: str, key: str) -> ErestoreError:
    if isinstance(error, FileNotFoundError):
        if doing != "write":
            return KeyNotFoundError(key)
        return RemoteError(
            f"Cannot write to '{url}': there is no such bucket.", hint="Create the bucket, or correct the URL."
        )
    # s3fs raises errors of Python's own kinds from those of the server, which say more.
    answer = _answer(error) or _answer(error.__cause__ or error)
    kind, hint = _ANSWERS.get(answer.get("Code", type(error).__name__), (None, ""))
    if kind is None:
        kind, hint = (AccessError, _CREDENTIALS) if isinstance(error, PermissionError) else (RemoteError, _NETWORK)
    verb = "refuses" if kind is AccessError else "failed"
    return kind(
        f"'{url}' {verb} to {doing} '{key}': {answer.get('Message') or _sentence(error)}".rstrip(".") + ".", hint=hint
    )


def _sentence(error: Exception) -> str:
    """Return what an error says on one line, without the expressions that validation quotes."""
    lines = [line.strip() for line in str(error).strip().split("\n") if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return lines[1].split(": ", 1)[0]
    return lines[0] if lines else type(error).__name__
