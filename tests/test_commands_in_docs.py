"""Every command that README, docs and the configs print is one that its verb takes."""

import argparse
import ast
import importlib
import pathlib
import re
import shlex

import pytest

from unified_fm import cli, main
from unified_fm.commands import evaluate

ROOT = pathlib.Path(__file__).parents[1]
# CONTRIBUTING.md's are run: test_contributing.py.
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.py")]
COMMAND = re.compile(
    r"^ {4}(?:tools/env\.sh )?(?:unified-fm|python -m unified_fm\.main) .*$", re.MULTILINE
)
NAMED = {"$mine": "jsonl:mine.jsonl", "bert:PATH": "bert:weights"}


def commands(page):
    """The words behind `unified-fm` of each indented command, up to what is the shell's."""
    text = page.read_text()
    if page.suffix == ".py":
        text = ast.get_docstring(ast.parse(text), clean=False) or ""
    for line in COMMAND.findall(text.replace("\\\n", " ")):
        for name, meant in NAMED.items():
            line = line.replace(name, meant)
        words = shlex.split(line.replace("python -m unified_fm.main", "unified-fm train"), True)
        words = words[words.index("unified-fm") + 1 :]
        ends = [words.index(sign) for sign in ("&&", "|", ">") if sign in words]
        # One of several: "bench layer|merge".
        yield [word.split("|")[0] for word in words[: min(ends, default=None)]]


FOUND = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}")
    for page in sorted(PAGES)
    for words in commands(page)
]


class Taken(Exception):
    """The command line was understood."""


@pytest.fixture
def only_parsing(monkeypatch):
    """Verbs end when they have read the command line; in a clone."""
    monkeypatch.chdir(ROOT)
    inside = []  # the parsers of sub-commands are called by that of the verb

    for name in ("parse_args", "parse_known_args"):
        original = getattr(argparse.ArgumentParser, name)

        def and_end(*arguments, parse=original, **named):
            inside.append(parse)
            try:
                found = parse(*arguments, **named)
            finally:
                inside.pop()
            if inside:
                return found
            left = found[1] if isinstance(found, tuple) else ()
            assert all(word.startswith("--config.") and "=" in word for word in left), left
            raise Taken

        monkeypatch.setattr(argparse.ArgumentParser, name, and_end)


@pytest.mark.parametrize("words", FOUND)
def test_a_command_is_understood(words, only_parsing):
    verb, *rest = words
    rest = [word for word in rest if word != "..."]  # the page leaves something out
    if verb not in ("train", "evaluate"):
        module = importlib.import_module(f"unified_fm.commands.{verb}")
        with pytest.raises(Taken):
            module.main(rest, f"unified-fm {verb}")
        return
    rest = evaluate.given(rest) if verb == "evaluate" else rest
    flags = [word for word in rest if not word.startswith("--config.")]
    assert all("=" in word for word in rest)
    main._flags()(["main", *flags])
    if any(word.startswith("--run=") for word in rest):
        return  # its config is that of a run which is not here
    start, folder = "--config.init=", "--workdir="
    # What it starts from is not here, either.
    rest = [f"{start}scratch" if word.startswith(start) else word for word in rest]
    main.parse(["main", *rest, *([] if folder in " ".join(rest) else [f"{folder}w"])])


def test_there_are_such_commands():
    verbs = {parameters.values[0][0] for parameters in FOUND}
    assert len(FOUND) > 60 and verbs <= {*cli.VERBS}
