"""Texts for fine-tunes: how they are divided, and what is read of a Debian system."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import debian_texts
import labelled_texts
from fetch_models import FetchError

AVAILABLE = """\
Package: sing
Description: plays tunes
Tag: role::program, sound::player,
 works-with::audio
Section: sound

Package: libsing-dev
Tag: role::devel-lib
Description: plays tunes, for programmers
 and a second line
Section: libdevel

Package: twice
Description: does two things
Tag: role::program, role::plugin
Section: text

Package: late
Description: tagged on a second line
Tag: works-with::audio,
 role::app-data

Package: same-a
Description: something common
Section: net

Package: same-b
Description: something common
Section: admin

Package: bare
Section: net
"""


@pytest.fixture
def available(monkeypatch):
    monkeypatch.setattr(debian_texts, "_run", lambda *_, **__: AVAILABLE)


def test_sections(available, tmp_path):
    expected = [("does two things", "text"), ("plays tunes", "sound")]
    assert sorted(debian_texts.sections(tmp_path)) == expected


def test_roles(available, tmp_path):
    expected = [
        ("plays tunes", "program"),
        ("plays tunes, for programmers", "devel-lib"),
        ("tagged on a second line", "app-data"),
    ]
    assert sorted(debian_texts.roles(tmp_path)) == expected


def test_a_class_has_so_many_texts_and_no_more(monkeypatch, tmp_path):
    stanzas = [f"Description: text {number}\nSection: {'net' if number % 3 else 'text'}" for number in range(3000)]
    monkeypatch.setattr(debian_texts, "_run", lambda *_, **__: "\n\n".join(stanzas))
    kinds = [kind for _, kind in debian_texts.sections(tmp_path)]
    assert (kinds.count("net"), kinds.count("text")) == (900, 900)


def test_what_was_read_once_stays(available, monkeypatch, tmp_path):
    once = debian_texts.sections(tmp_path)
    monkeypatch.setattr(debian_texts, "_run", lambda *_, **__: "")
    assert debian_texts.sections(tmp_path) == once


def test_no_lists_of_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(debian_texts, "_run", lambda *_, **__: "")
    with pytest.raises(FetchError, match="apt-get update"):
        debian_texts.sections(tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_debian(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match="need a Debian system"):
        debian_texts.roles(tmp_path)


def test_a_command_that_fails(monkeypatch):
    monkeypatch.setattr(debian_texts.shutil, "which", lambda _: "there")
    with pytest.raises(FetchError, match=r"^sh -c failed: no such thing$"):
        debian_texts._run("sh", "-c", "echo first >&2; echo no such thing >&2; exit 1")


def test_fortunes(monkeypatch, tmp_path):
    directory = tmp_path / f"fortunes-{debian_texts.VERSION.partition(':')[2]}"
    directory.mkdir()
    (directory / "law").write_text(
        "One\tcookie\nof two lines.\n%\nshared\n%\n" + "".join(f"{n}\n%\n" for n in range(100))
    )
    (directory / "work").write_text("shared\n%\n" + "".join(f"w{n}\n%\n" for n in range(100)))
    (directory / "few").write_text("lonely\n%\n")
    (directory / "law.dat").write_bytes(b"\xff")
    (directory / "law.u8").symlink_to("law")
    found = dict(debian_texts.fortunes(tmp_path))
    assert found["One cookie of two lines."] == "law"
    assert found["w7"] == "work"
    assert len(found) == 201


def test_division(monkeypatch, tmp_path):
    texts = [(f"text {n}", ("zebra", "ant", "bee")[n % 3]) for n in range(1000)]
    monkeypatch.setitem(labelled_texts.TASKS, "made up", lambda _: texts)
    task = labelled_texts.load_task("made up", tmp_path)
    assert task.classes == ["ant", "bee", "zebra"]
    assert 150 < len(task.test) < 250
    whole = sorted((example.text, task.classes[example.label]) for example in [*task.train, *task.test])
    assert whole == sorted(texts)
    assert task == labelled_texts.load_task("made up", tmp_path)
