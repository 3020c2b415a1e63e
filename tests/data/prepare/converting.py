"""Converts in this process and reads what was written."""

import contextlib

from unified_fm import cli
from unified_fm.data.skips import Skip
from unified_fm.data.source import open_source


def convert(source, out, *more):
    """The exit status, in this process."""
    arguments = [source, f"--out={out}", "--workers=1", "--quiet", *more]
    return cli.main(["data", "convert", *arguments])


def examples(source):
    """All that can be read: of NLVR2's files one picture is missing, as in truth."""
    found = []
    for index in range(len(source)):
        with contextlib.suppress(Skip):
            found.append(source[index])
    return found


def read(folder):
    """All examples of the shards of a folder."""
    return examples(open_source(f"array_record:{folder / 'data'}"))


def listed(value):
    return value if isinstance(value, list) else [value]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
