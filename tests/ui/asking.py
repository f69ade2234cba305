"""Requests to a server, as bytes on a connection: nothing is tidied up on the way."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from urllib.parse import urlsplit

from erestore.ui.server import Served


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str


def ask(
    served: Served, path: str = "", *, method: str = "GET", whole: str | None = None, host: str | None = None
) -> Answer:
    """Ask for a path below the first page, or for a `whole` path, by the name `host`."""
    parts = urlsplit(served.address)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    try:
        connection.putrequest(method, parts.path + path if whole is None else whole, skip_host=True)
        connection.putheader("Host", parts.netloc if host is None else host)
        connection.endheaders()
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read().decode())
    finally:
        connection.close()


def settled(served: Served, path: str) -> Answer:
    """Ask until no work is left to do."""
    while (answer := ask(served, path)).status == 202:
        pass
    return answer
