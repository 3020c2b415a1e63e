"""Prepares the demo corpus once: real data from pinned packages, as shards that train at once.

    data/demo/PART/...          what `recipes` makes
    data/demo/PART/stamp.json   from what it was made, and what was counted

A part is made in a folder of another name and moved into place when it is whole, with its stamp
inside. So an interrupted preparation leaves no half a part, and a part made by another version of
this recipe, of other packages, with another `--without`, or without all that it holds today is made
again.
"""

import dataclasses
import fcntl
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import tqdm

from unified_fm import buckets, choices
from unified_fm.demo import debian, packages, recipes
from unified_fm.demo.making import Making

RECIPE = 2  # raise it when `recipes` makes anything else than before
DEFAULT_FOLDER = "data/demo"
QUICKSTART = recipes.QUICKSTART


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare` found or made for one part.

    Attributes:
        counts: examples per split (or objects, or tokens).
        skipped: records that could not be used, by reason.
        facts: what a reader needs to know (names of labels).
        left_out: packages that were left out.
        seconds: how long it took; 0 if it was there.
    """

    counts: dict[str, int]
    skipped: dict[str, int]
    facts: dict
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0


def prepare(
    to: str | os.PathLike | None = None,
    without: Sequence[str] | None = None,
    *,
    parts: Sequence[str] = QUICKSTART,
    ratings: str | os.PathLike | None = None,
    unpacked: str | os.PathLike | None = None,
    progress: bool = True,
) -> dict[str, Prepared]:
    """Makes the parts that are missing or out of date, and returns an account of all of them.

    Args:
        to: the folder of the corpus; None is as `folder()` says.
        without: packages to do without. None keeps to what each part there was made without. A
            part of which nothing is left is not made, and removed if it was there.
        parts: names of `recipes.PARTS`; what they are made from is added.
        ratings: vaderSentiment's source distribution, for the parts "ratings" and "editorials";
            None: as `packages.ratings_file` says.
        unpacked: the folder below which Debian packages are unpacked; None: as `debian.root` says.
        progress: whether to show a bar per part on standard error.

    Raises:
        ValueError: an unknown part or package; the message has the nearest.
        MissingPackage: a package is missing; the message says how to get it or do without.
    """
    root = folder(to)
    for name in without or ():
        _check(name, packages.PACKAGES, "package")
    wanted = _with_needs(parts)
    if all(_is_current(root, name, without) for name in wanted):
        return {name: _account(root, name) for name in wanted if (root / name).exists()}

    account = {}
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time; a lock of a dead process is no lock
        for name in wanted:
            seconds = 0.0
            if not _is_current(root, name, without):  # another process may have made it
                started = time.monotonic()
                _make(root, name, without, ratings, debian.root(unpacked), progress)
                seconds = time.monotonic() - started
            if (root / name).exists():
                account[name] = _account(root, name, seconds)
    return account


def folder(given: str | os.PathLike | None = None) -> Path:
    """The folder of the corpus: the one given, else UNIFIED_FM_DATA, else data/demo.

    Raises:
        ValueError: it is in a bucket.
    """
    found = given or os.environ.get("UNIFIED_FM_DATA") or DEFAULT_FOLDER
    buckets.refuse(found, "the demo corpus")
    return Path(found)


def table(account: dict[str, Prepared]) -> str:
    """Counts per part and split, what was left out, and skips by reason: a text for people."""
    lines = []
    for name, part in account.items():
        counts = ", ".join(f"{count:,} {split}" for split, count in part.counts.items())
        took = f"  ({part.seconds:.1f} s)" if part.seconds else "  (was there)"
        lines.append(f"{name:<13} {counts}{took}")
        lines += [f"{'':<13} without {package}" for package in part.left_out]
        lines += [f"{'':<13} skipped {count:,}: {reason}" for reason, count in part.skipped.items()]
    return "\n".join(lines)


def read_stamp(folder: Path) -> dict | None:
    """The stamp of a whole part; None where there is none, or none that can be read."""
    try:
        stamp = json.loads((folder / "stamp.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    keys = {"made_from", "counts", "skipped", "facts"}
    return stamp if isinstance(stamp, dict) and keys <= stamp.keys() else None


def _make(root, name, without, ratings, below, progress):
    """Makes one part in a folder of its own and moves it into place."""
    part, made_from = recipes.PARTS[name], _made_from(root, name, without)
    if made_from is None:
        shutil.rmtree(root / name)  # what it was made from is to be left out
        return
    for package in made_from["packages"]:
        packages.folder(package)  # all that is missing is told before any work
    for package in part.debian:
        debian.folder(package, below)
    making_folder = root / f".{name}.making"
    shutil.rmtree(making_folder, ignore_errors=True)  # of an interrupted preparation
    making_folder.mkdir()
    with tqdm.tqdm(
        desc=f"demo corpus: {name}", unit=" records", disable=not progress, mininterval=0.5
    ) as bar:
        making = Making(
            making_folder,
            root,
            made_from["packages"],
            bar,
            ratings=packages.ratings_file(ratings),
            debian=below,
        )
        part.make(making)
    _check_contents(name, making_folder, making.counts)
    stamp = {
        "made_from": made_from,
        "counts": making.counts,
        "skipped": dict(making.skipped),
        "facts": making.facts,
        "licences": {
            package: packages.PACKAGES[package].licence for package in made_from["packages"]
        }
        | {package: debian.PACKAGES[package].licence for package in part.debian},
    }
    text = json.dumps(stamp, indent=1, ensure_ascii=False)
    (making_folder / "stamp.json").write_text(text, encoding="utf-8")
    old = root / f".{name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if (root / name).exists():
        os.replace(root / name, old)
    os.replace(making_folder, root / name)
    shutil.rmtree(old, ignore_errors=True)


def _is_current(root, name, without):
    """Whether the part is as it should be: there and made from the right things, or left out."""
    made_from = _made_from(root, name, without)
    if made_from is None:
        return not (root / name).exists()
    stamp = read_stamp(root / name)
    if stamp is None or stamp["made_from"] != made_from:
        return False
    return not _lacks(name, root / name, stamp["counts"])


def _lacks(name, folder, counts):
    """Patterns of what the part holds for which there is nothing; an empty split has no shard."""
    empty = {f"{split}-*" for split, count in counts.items() if not count}
    wanted = [each for each in recipes.PARTS[name].contents if each not in empty]
    return [each for each in wanted if not any(folder.glob(each))]


def _check_contents(name, folder, counts):
    """Refuses a maker whose part holds other things than the table says: then nobody could tell an
    old part from a new one.

    Raises:
        RuntimeError: with what is missing and what is too much.
    """
    known = recipes.PARTS[name].contents
    others = [p.name for p in folder.iterdir() if not any(p.match(each) for each in known)]
    lacks = _lacks(name, folder, counts)
    if others or lacks:
        raise RuntimeError(
            f"part {name!r} lacks {lacks} and has {sorted(others)}, against"
            " `contents` in demo/recipes.py"
        )


def _made_from(root, name, without):
    """What decides whether a part is up to date; None if nothing is left to make it from."""
    part, left_out = recipes.PARTS[name], _left_out(root, name, without)
    groups = [group for group in part.sources if not set(group) & set(left_out)]
    if part.sources and not groups:
        return None
    before = {}
    for needed in (*part.after, *part.uses):
        stamp = read_stamp(root / needed)
        if stamp is not None:
            before[needed] = stamp["made_from"]
        elif needed in part.after and _made_from(root, needed, without) is None:
            return None
    versions = {
        package: packages.PACKAGES[package].version for group in groups for package in group
    }
    return {"recipe": RECIPE, "packages": versions, "after": before}


def _left_out(root, name, without):
    """The packages that this part could use and does without."""
    possible = [package for group in recipes.PARTS[name].sources for package in group]
    if without is not None:
        return tuple(package for package in possible if package in without)
    stamp = read_stamp(root / name)
    if stamp is None:
        return ()
    return tuple(package for package in possible if package not in stamp["made_from"]["packages"])


def _with_needs(parts):
    """The parts asked for and those they are made from, in an order that works."""
    wanted = set()
    for name in parts:
        _check(name, recipes.PARTS, "part of the demo corpus")
        wanted |= {name, *recipes.PARTS[name].after, *recipes.PARTS[name].uses}
    order = [name for name in recipes.PARTS if name in wanted]
    return sorted(order, key=lambda name: bool(recipes.PARTS[name].after))


def _account(root, name, seconds=0.0):
    stamp = cast(dict[str, Any], read_stamp(root / name))
    return Prepared(
        counts=stamp["counts"],
        skipped=stamp["skipped"],
        facts=stamp["facts"],
        left_out=_left_out(root, name, None),
        seconds=seconds,
    )


def _check(name, known, what):
    if name not in known:
        raise ValueError(f"no {what} {name!r}; {choices.possible(name, known)}")
