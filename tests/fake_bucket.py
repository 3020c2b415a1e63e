"""Buckets in memory under their own protocols, gs:// and s3://, for tests of one process."""

import hashlib
import pathlib
import re
from typing import ClassVar

import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry


class Memory(MemoryFileSystem):
    """What fsspec takes for gcsfs and s3fs; `asked` are the requests that reach a real bucket."""

    protocol = ("gs", "gcs", "s3")
    asked: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(re.sub(r"^(gs|gcs|s3)://", "memory://", path))

    def info(self, path, **options):
        self.asked.append(("info", path))
        return self._tagged(super().info(path, **options))

    def ls(self, path, detail=True, **options):
        self.asked.append(("ls", path))
        found = super().ls(path, detail=detail, **options)
        return [self._tagged(entry) for entry in found] if detail else found

    def find(self, path, detail=False, **options):
        found = super().find(path, detail=detail, **options)
        return {name: self._tagged(entry) for name, entry in found.items()} if detail else found

    def _tagged(self, entry):
        if entry["type"] == "file":  # as S3 has it: the hash of the content
            content = self.store[entry["name"]].getvalue()
            entry["ETag"] = hashlib.md5(content).hexdigest()
        return entry

    def cat_file(self, path, start=None, end=None, **options):
        self.asked.append(("cat", path))
        return super().cat_file(path, start=start, end=end, **options)

    def open(self, path, mode="rb", **options):
        self.asked.append(("open", path))
        return super().open(path, mode, **options)

    def upload_folder(self, folder, place):
        """Copies all files of a local folder to a place."""
        for file in pathlib.Path(folder).rglob("*"):
            if file.is_file():
                self.pipe_file(f"{place}/{file.relative_to(folder)}", file.read_bytes())


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The empty buckets; indices are kept below `tmp_path`."""
    for protocol in Memory.protocol:
        monkeypatch.setitem(_registry, protocol, Memory)
    backend.fsspec_backend._get_filesystem.cache_clear()
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setattr(Memory, "asked", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield Memory()
    backend.fsspec_backend._get_filesystem.cache_clear()
