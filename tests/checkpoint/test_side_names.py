import pytest
from hypothesis import given
from hypothesis import strategies as st

from erestore.checkpoint.side_names import check_side_name, check_side_names
from erestore.errors import CheckpointError


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "1_Pooling/config.json",
        "README.md",
        "a b (1) [x]@v=2,+.txt",
        "console.txt",
        "a..b",
        "-rf",
        "/".join("abcdefgh"),
        "x" * 200,
    ],
)
def test_kept(name):
    assert check_side_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "/etc/passwd",
        "a/",
        "~/x",
        ".hidden",
        "a/.git/config",
        "C:x",
        "a\\b",
        "\\\\host\\x",
        "a\nb",
        "a\x00b",
        "a.",
        "a ",
        " a",
        "a./b",
        "CON",
        "nul.txt",
        "sub/com1.json",
        "naïve.txt",
        "a\u202eb",
        "x" * 201,
        "/".join("abcdefghi"),
        "a*",
        "a\n",
    ],
)
def test_refused(name):
    with pytest.raises(CheckpointError) as caught:
        check_side_name(name)
    assert caught.value.hint


@given(st.text(max_size=20))
def test_whatever_passes_stays_inside(tmp_path_factory, name):
    try:
        check_side_name(name)
    except CheckpointError:
        return
    root = tmp_path_factory.getbasetemp().resolve() / "target"
    assert (root / name).resolve().is_relative_to(root)
    assert (root / name).resolve() != root


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.txt", "A.txt"], "where case does not count"),
        (["a.txt", "a.txt"], "where case does not count"),
        (["sub/x", "Sub/y"], "where case does not count"),
        (["a", "a/b"], "both a file and a folder"),
        (["A", "a/b"], "both a file and a folder|case"),
    ],
)
def test_names_that_collide(names, reason):
    with pytest.raises(CheckpointError, match=reason):
        check_side_names(names)
    with pytest.raises(CheckpointError, match=reason):
        check_side_names(reversed(names))


def test_names_in_one_folder():
    check_side_names(["sub/x", "sub/y", "sub/deep/z", "other"])
