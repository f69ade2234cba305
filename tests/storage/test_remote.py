"""What is particular to remotes: the probe, lost answers, refusals, what is left behind."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from lossy_proxy import lossy_proxy
from servers import BUCKET, free_ports, fresh_url, s3_environment

from erestore.errors import AccessError, KeyNotFoundError, RemoteError, UnsafeRemoteError, UsageError
from erestore.ops.gc import gc
from erestore.storage import remote
from erestore.storage.leases import Lease
from erestore.storage.open import open_storage
from erestore.storage.probe import ProbedStorage, probe
from erestore.storage.refs import Refs
from erestore.storage.remote import PART_BYTES, FsspecStorage
from erestore.storage.remote_errors import is_taken_or_busy, remote_errors
from erestore.store import MARKER, Store

pytestmark = pytest.mark.s3


@pytest.fixture
def moto(moto_url):
    return FsspecStorage(*moto_url)


@pytest.fixture(params=["moto_url", "seaweed_url"])
def good(request):
    return FsspecStorage(*request.getfixturevalue(request.param))


def test_a_good_remote_passes_once_and_is_remembered(good, monkeypatch):
    probe(good)
    (marker,) = good.list()
    assert marker.key.startswith("probe/passed-")

    def write(*_args, **_keywords):
        pytest.fail("probed again")

    monkeypatch.setattr(FsspecStorage, "put_if_absent", write)
    probe(FsspecStorage(good.url, good.options))
    assert ProbedStorage(good).create("a", b"x")


def test_the_marker_does_not_travel_to_another_server(moto, rclone_server):
    probe(moto)
    (marker,) = moto.list()
    other = FsspecStorage(moto.url, rclone_server)
    other.create(marker.key, moto.read(marker.key))
    with pytest.raises(UnsafeRemoteError):
        probe(other)


def test_a_server_that_ignores_the_condition_is_refused(rclone_url):
    url, options = rclone_url
    storage = open_storage(url, options=options)
    assert list(storage.list()) == []
    with pytest.raises(UnsafeRemoteError, match="overwrote") as caught:
        storage.create("erestore.json", b"{}")
    assert caught.value.exit_code == 8
    assert "--single-writer" in caught.value.hint
    assert list(storage.list()) == []


def test_a_single_writer_may_use_it_and_still_overwrites_nothing(rclone_url):
    url, options = rclone_url
    storage = open_storage(url, options=options, single_writer=True)
    assert storage.create("a", b"first")
    assert not storage.create("a", b"second")
    assert storage.read("a") == b"first"


def test_a_file_system_that_looks_and_then_writes_is_refused(tmp_path):
    storage = ProbedStorage(FsspecStorage((tmp_path / "store").as_uri()))
    with pytest.raises(UnsafeRemoteError, match="looks and then writes"):
        storage.create("a", b"")


def test_the_environment_is_enough(seaweed_server, monkeypatch):
    for name, value in s3_environment(seaweed_server).items():
        monkeypatch.setenv(name, value)
    storage = open_storage(fresh_url())
    assert storage.create("a", b"value")
    assert storage.read("a") == b"value"


def test_a_bucket_that_is_not_there(moto_server):
    storage = FsspecStorage("s3://no-such-bucket/store", moto_server)
    assert list(storage.list()) == []
    assert not storage.exists("a")
    with pytest.raises(KeyNotFoundError):
        storage.read("a")
    with pytest.raises(RemoteError, match="bucket"):
        storage.create("a", b"x")
    with pytest.raises(RemoteError, match="bucket"):
        storage.create("a", iter([bytes(PART_BYTES)] * 2))


def test_wrong_credentials(seaweed_url):
    url, options = seaweed_url
    storage = FsspecStorage(url, {**options, "secret": "wrong"})
    calls = [lambda: storage.read("a"), lambda: storage.create("a", b""), lambda: [*storage.list()]]
    for call in calls:
        with pytest.raises(AccessError) as caught:
            call()
        assert caught.value.exit_code == 10
        assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_no_credentials(moto_server, monkeypatch, tmp_path):
    for name in s3_environment(moto_server):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    storage = FsspecStorage(fresh_url(), {"endpoint_url": moto_server["endpoint_url"]})
    with pytest.raises(AccessError, match="redentials"):
        storage.read("a")


def test_nobody_answers():
    (port,) = free_ports(1)
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{port}"}
    options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}
    storage = FsspecStorage(fresh_url(), options)
    with pytest.raises(RemoteError) as caught:
        storage.read("a")
    assert caught.value.exit_code == 6
    assert "\n" not in caught.value.message


ANSWERS = {
    "ExpiredToken": (400, "The provided token has expired.", AccessError, "new credentials"),
    "RequestTimeTooSkewed": (
        403,
        "The difference between the request time and the current time is too large.",
        AccessError,
        "clock",
    ),
    "AuthorizationHeaderMalformed": (400, "the region 'a' is wrong; expecting 'b'", RemoteError, "AWS_DEFAULT_REGION"),
    "SignatureDoesNotMatch": (403, "The request signature does not match.", AccessError, "AWS_SECRET_ACCESS_KEY"),
    "SlowDown": (503, "Please reduce your request rate.", RemoteError, "repeat the command"),
}


@pytest.fixture
def answering(monkeypatch):
    """A server that gives one answer to everything: status, content type, and a body that HEAD lacks."""
    answer = {}

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(answer["status"])
            self.send_header("Content-Type", answer["type"])
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer["body"])

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = respond

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        options = {"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}}
        yield answer, options
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("code", ANSWERS)
def test_what_the_server_says_is_passed_on(answering, code):
    """Also where a range was asked for: the bare status of the look that follows says nothing."""
    status, message, kind, hint = ANSWERS[code]
    answer, options = answering
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    answer |= {"status": status, "type": "application/xml", "body": body}
    storage = FsspecStorage(fresh_url(), options)
    for call in (
        lambda: storage.read("a"),
        lambda: storage.read_range("a", 3, 5),
        lambda: storage.exists("a"),
        lambda: [*storage.list()],
        lambda: storage.create("a", b"x"),
    ):
        with pytest.raises(kind, match=re.escape(message.rstrip("."))) as caught:
            call()
        assert hint in caught.value.hint


def test_a_web_console_is_not_a_damaged_store(answering):
    answer, options = answering
    answer |= {"status": 200, "type": "text/html", "body": b"\n<!DOCTYPE html><html>a console</html>"}
    with pytest.raises(RemoteError, match=r"A web page answers at s3://.* http://127") as caught:
        Store.open(fresh_url(), options=options)
    assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_names_and_profiles_that_cannot_be(moto_server, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match='Invalid bucket name "My_Bucket!"') as caught:
        FsspecStorage("s3://My_Bucket!/x", moto_server).read("a")
    assert "name of the bucket" in caught.value.hint
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(AccessError, match=r"profile \(nope\) could not be found") as caught:
        FsspecStorage(fresh_url(), {**moto_server, "profile": "nope"}).read("a")
    assert "AWS_PROFILE" in caught.value.hint


def test_an_empty_value_has_no_range(good):
    assert good.create("empty", b"")
    assert good.exists("empty")
    assert good.read_range("empty", 0, 1) == b""
    assert good.read_range("empty", 5, 9) == b""


@pytest.mark.parametrize("url", ["nonsense://x/y", "s3://"])
def test_urls_that_cannot_hold_a_store(url):
    with pytest.raises(UsageError):
        FsspecStorage(url).read("a")


def test_an_old_or_missing_s3fs_is_refused(monkeypatch):
    monkeypatch.setattr(remote, "version", lambda _name: "2025.5.1")
    with pytest.raises(UnsafeRemoteError, match="s3fs 2025"):
        FsspecStorage("s3://bucket/x").exists("a")

    def missing(name):
        raise remote.PackageNotFoundError(name)

    monkeypatch.setattr(remote, "version", missing)
    with pytest.raises(UsageError, match="not installed"):
        FsspecStorage("s3://bucket/x").exists("a")


BIG = [bytes([65 + number]) * (PART_BYTES // 2) for number in range(5)]


@pytest.mark.parametrize("kind", ["moto", "seaweed"])
@pytest.mark.parametrize("body", [b"", b"small", BIG], ids=["empty", "small", "parts"])
def test_a_lost_answer_is_not_a_conflict(kind, body, request):
    url, options = request.getfixturevalue(f"{kind}_url")
    lost = []

    def lose(method, path):
        ends = (method == "PUT" and "partNumber" not in path) or (method == "POST" and "uploadId" in path)
        if ends and not lost:
            lost.append(path)
            return True
        return False

    with lossy_proxy(options["endpoint_url"], lose) as endpoint:
        storage = FsspecStorage(url, {**options, "endpoint_url": endpoint})
        created = storage.create("objects/x", body if isinstance(body, bytes) else iter(body))
    assert lost
    # Whoever sends parts cannot tell; the value is there and right, and that is what False says too.
    assert created or body is BIG
    assert FsspecStorage(url, options).read("objects/x") == (body if isinstance(body, bytes) else b"".join(body))


def test_when_every_answer_to_a_write_is_lost_it_is_still_found_out(moto):
    with lossy_proxy(moto.options["endpoint_url"], lambda method, _path: method == "PUT") as endpoint:
        config = {"retries": {"total_max_attempts": 1}}
        storage = FsspecStorage(moto.url, {**moto.options, "endpoint_url": endpoint, "config_kwargs": config})
        storage._filesystem.retries = 1
        assert storage.create("a", b"x")
    assert moto.read("a") == b"x"


def unfinished(storage):
    return [upload["Key"] for upload in storage._filesystem.list_multipart_uploads(BUCKET)]


def test_a_large_write_that_fails_leaves_no_parts(good):
    def chunks():
        yield from BIG
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        good.create("objects/x", chunks())
    assert unfinished(good) == []
    assert list(good.list()) == []


def test_parts_of_a_killed_writer_are_removed_when_told(good):
    key = good._path(f"objects/00/{'0' * 62}").partition("/")[2]
    good._filesystem.call_s3("create_multipart_upload", Bucket=BUCKET, Key=key)
    assert unfinished(good) == [key]
    assert FsspecStorage(f"{good.url}-other", good.options).remove_unfinished(2**40) == 0
    assert good.remove_unfinished(0) == 0
    assert good.remove_unfinished(2**40) == 1
    assert unfinished(good) == []


def test_one_of_many_large_writers_wins(good):
    start = threading.Barrier(3)

    def write(racer):
        start.wait()
        return good.create("objects/x", iter([bytes([racer]) * PART_BYTES] * 2))

    with ThreadPoolExecutor(3) as pool:
        won = list(pool.map(write, range(3)))
    assert won.count(True) == 1
    assert good.read("objects/x") == bytes([won.index(True)]) * (2 * PART_BYTES)
    assert unfinished(good) == []


def test_what_means_taken_or_busy():
    from botocore.exceptions import ClientError

    for code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
        failure = RemoteError("outer")
        failure.__cause__ = OSError(5, "middle")
        failure.__cause__.__cause__ = ClientError({"Error": {"Code": code}}, "PutObject")
        assert is_taken_or_busy(failure)
    failure.__cause__.__cause__ = ClientError({"Error": {"Code": "SlowDown"}}, "PutObject")
    assert not is_taken_or_busy(failure)
    assert is_taken_or_busy(FileExistsError())


def test_nothing_is_lost_in_races_for_a_ref(good):
    from test_refs import check_history, insist

    start = threading.Barrier(3)

    def work(writer):
        start.wait()
        return insist(Refs(FsspecStorage(good.url, good.options)), f"w{writer}", 3)

    with ThreadPoolExecutor(3) as pool:
        acknowledged = [operation for done in pool.map(work, range(3)) for operation in done]
    check_history(Refs(good), acknowledged)
    assert len(acknowledged) == 9


class AddOnly(FsspecStorage):
    """Credentials that may write and read, but not delete."""

    def delete(self, key):
        raise AccessError(f"There is no permission to delete '{key}'.")


def test_who_may_not_delete_probes_with_the_same_keys_every_time(moto, monkeypatch):
    storage = AddOnly(moto.url, moto.options)
    created = FsspecStorage.create
    monkeypatch.setattr(FsspecStorage, "create", lambda *_: False)  # the result of the probe is not remembered
    for _ in range(2):
        probe(storage)
        assert {entry.key.rpartition("/")[0] for entry in moto.list()} == {"probe/kept"}
        assert len(list(moto.list())) == 5
    monkeypatch.setattr(FsspecStorage, "create", created)
    assert ProbedStorage(storage).create("erestore.json", b"{}")
    assert len(list(moto.list())) == 7


def test_who_may_not_delete_is_refused_an_unsafe_remote_as_well(rclone_url):
    for _ in range(2):
        with pytest.raises(UnsafeRemoteError):
            probe(AddOnly(*rclone_url))


def test_who_may_not_delete_commits_and_leaves_collecting_to_others(moto):
    FsspecStorage.create(moto, MARKER, b'{"erestore":1,"id":"00","read":[],"write":[]}')
    store = Store(AddOnly(moto.url, moto.options), {"id": "00"})
    blob = store.objects.put_blob(b"left over")
    with Lease(store.storage, "writer", "one"):
        pass
    with pytest.raises(AccessError, match="Nothing can be deleted"):
        gc(store, grace_days=0)
    assert not [entry.key for entry in moto.list("gc/leases/collector")]
    done = gc(Store(moto, {"id": "00"}), grace_days=0)
    assert (done.waiting, done.deleted_objects) == (None, 1)
    assert not moto.exists(f"objects/{blob.oid[:2]}/{blob.oid[2:]}")
    assert not list(moto.list("gc/"))


@pytest.mark.parametrize("code", ["QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"])
def test_a_quota_is_no_space(code):
    error = OSError(5, "Input/output error")
    error.__cause__ = Exception(code)
    error.__cause__.response = {"Error": {"Code": code, "Message": "The quota of the bucket is used up."}}
    with pytest.raises(AccessError, match="quota of the bucket") as caught, remote_errors("write", "s3://b/x", "a"):
        raise error
    assert "erestore gc" in str(caught.value.hint)
