"""Nobody sees the page without its token, by another name, or to change something; nothing is kept or fetched elsewhere."""

from __future__ import annotations

import socket
from urllib.parse import quote, urlsplit

import pytest
from asking import ask, settled

from erestore.api import Store
from erestore.ui.pages import assets
from erestore.ui.server import Served, serve

PATHS = ("", "similarity", "storage", "state", "usage/0", "assets/ui.js", "assets/plotly.js", "commit/0", "nothing")


def token(served: Served) -> str:
    return urlsplit(served.address).path.strip("/")


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_there_is_nothing(served: Served, path: str) -> None:
    right = token(served)
    wrong = (
        "",
        "/",
        f"/{path}",
        f"/{right[:-1]}x/{path}",
        f"/{right}x/{path}",
        f"/{right[:-1]}/{path}",
        f"//{right}/{path}",
    )
    for whole in (*wrong, f"/{right.upper()}/{path}", f"/%00{right}/{path}", f"/?token={right}", f"/x/{right}/{path}"):
        for method in ("GET", "HEAD", "POST"):
            answer = ask(served, whole=whole or "/", method=method)
            assert answer.status == 403, whole
            assert method == "HEAD" or answer.text.startswith("This address lacks the token.")
            assert right not in answer.text + str(answer.headers)


ELSEWHERE = ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.2", "", "[::1", "0.0.0.0")


@pytest.mark.parametrize("host", ELSEWHERE)
def test_another_name_is_refused_though_the_token_is_right(served: Served, host: str) -> None:
    for name in (host, f"{host}:{served.port}"):
        assert ask(served, host=name).status == 400
        assert ask(served, "state", host=name).status == 400


def test_two_names_are_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        path = urlsplit(served.address).path
        connection.sendall(f"GET {path}state HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n".encode())
        assert connection.recv(100).split()[1] == b"400"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:4321", "LOCALHOST"])
def test_names_of_this_machine_will_do_at_any_port(served: Served, host: str) -> None:
    assert ask(served, "state", host=host).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_it_only_reads(served: Served, method: str) -> None:
    for path in PATHS:
        answer = ask(served, path, method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_it_listens_on_this_machine_only(served: Served) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", served.port))  # taken, if it listened everywhere


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_guarded(served: Served, path: str) -> None:
    for answer in (
        ask(served, path),
        ask(served, whole="/"),
        ask(served, host="evil.example"),
        ask(served, method="POST"),
    ):
        policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        is_asset = path.startswith("assets/") and answer.status == 200
        assert answer.headers["cache-control"] == ("private, max-age=86400, immutable" if is_asset else "no-store")
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_assets_are_what_is_listed_and_nothing_else(served: Served) -> None:
    for name, held in assets().items():
        answer = ask(served, f"assets/{name}")
        assert (answer.status, answer.text) == (200, held.content)
        assert answer.headers["content-type"].startswith(held.media_type)
    assert {"plotly.js", "page.css", "page.js", "lineage.js", "diff.js", "ui.js", "ui.css"} <= set(assets())


@pytest.mark.parametrize(
    "path",
    [
        "assets/../ui.js",
        "assets/..%2f..%2f__init__.py",
        "assets/%2e%2e/app.py",
        "assets//etc/passwd",
        "assets/....//app.py",
        "../../../../etc/passwd",
        "commit/../../etc/passwd",
        "commit/%2e%2e%2f%2e%2e",
        "commit/" + "0" * 64,
        "commit/" + "A" * 64,
        "commit/mnli-0000",
        "compare?rev=" + quote("/etc/passwd") + "&rev=base",
        "compare?rev=base&rev=" + quote("../store"),
        "similarity?rev=" + quote("/etc/hosts"),
        "similarity?base=nothing",
    ],
)
def test_paths_lead_nowhere_else(served: Served, path: str) -> None:
    answer = settled(served, path)
    assert answer.status in (400, 404)
    assert "root:" not in answer.text
    assert "Traceback" not in answer.text


def test_a_ticket_leads_to_the_token_once(fleet: Store) -> None:
    with serve(fleet) as served:
        path = urlsplit(served.ticket).path
        assert ask(served, whole=path, host="evil.example").status == 400
        first = ask(served, whole=path)
        assert (first.status, first.headers["location"]) == (303, urlsplit(served.address).path)
        assert ask(served, whole=path).status == 403
        assert ask(served, whole=f"{path}/state").status == 403


def test_the_first_page_is_found_without_its_slash(served: Served) -> None:
    answer = ask(served, whole=f"/{token(served)}")
    assert (answer.status, answer.headers["location"]) == (308, f"/{token(served)}/")


def test_tokens_are_long_and_never_the_same(fleet: Store) -> None:
    with serve(fleet) as one, serve(fleet) as two:
        secrets = {token(one), token(two), urlsplit(one.ticket).path, urlsplit(two.ticket).path}
    assert len(secrets) == 4
    assert min(map(len, secrets)) >= 43  # 256 bits
