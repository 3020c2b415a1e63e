"""The commit of the library: of its own clone, and of no other around it."""

import re
import subprocess

import pytest

from unified_fm.runtime import revision


@pytest.fixture(autouse=True)
def fresh():
    revision.commit.cache_clear()
    yield
    revision.commit.cache_clear()


def test_a_clone_has_a_commit_and_what_is_installed_below_one_has_none(tmp_path, monkeypatch):
    own = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], [*own, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    monkeypatch.setattr(revision, "_CLONE", tmp_path)
    assert re.fullmatch(r"[0-9a-f]{12}", revision.commit())
    revision.commit.cache_clear()
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(revision, "_CLONE", tmp_path / "site-packages")
    assert revision.commit() == ""
