"""A file is written whole or not at all."""

import os

import pytest
from etils import epath

from unified_fm import files


@pytest.mark.parametrize("kind", [str, os.fspath, epath.Path])
def test_text_and_bytes_replace_what_was_there(tmp_path, kind):
    path = tmp_path / "a.json"
    files.write_whole(kind(path), "old")
    files.write_whole(kind(path), "né", durable=True)
    assert path.read_bytes() == b"n\xc3\xa9"
    files.write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_body_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_whole(tmp_path / "a", "old")
    with pytest.raises(OSError, match="disk full"), files.whole(tmp_path / "a") as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary.name != "a"
        raise OSError("disk full")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_text_that_no_utf_8_can_carry_changes_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        files.write_whole(tmp_path / "a", "\ud800")
    assert os.listdir(tmp_path) == []
