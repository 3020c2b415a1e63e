"""`NAME.manifest.json`: what a finished conversion is made of. It is written last, and never short.

The same conversion has the same manifest, byte for byte, whoever wrote the shards and however often
it was interrupted: no time, no host and no path of an output is in it.
"""

import collections
import hashlib
import json
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import files
from unified_fm.data.prepare import shard as shards
from unified_fm.data.prepare.job import Job
from unified_fm.data.skips import MINIMUM


class Unfinished(RuntimeError):
    """A conversion that lacks shards or records, or has lost more than it may."""


class OtherConversion(ValueError):
    """The folder has shards of another conversion under the same name."""


def read(path: Any) -> dict[str, Any] | None:
    """A manifest, also in a bucket; None: there is none.

    Raises:
        ValueError: the file is no manifest.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is no manifest: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("shards"), list):
        raise ValueError(f"{path} is no manifest: it has no list of shards")
    return found


def begin(job: Job) -> dict[str, Any] | None:
    """Prepares the folder; the manifest, where the conversion is finished already.

    Raises:
        OtherConversion: another one has written there, with what differs.
    """
    there = read(job.manifest)
    plan = job.accounts / "job.json"
    if there is not None:
        _refuse_other(job, there.get("job"), job.manifest)
        wrong = damaged(job, there)
        if not wrong:
            _clean(job)  # it may have been ended just before it did so itself
            return there
        raise OtherConversion(
            f"{job.manifest} says that all is done, but {wrong}. Remove the manifest to have the"
            " shards written again"
        )
    if plan.exists():
        _refuse_other(job, _plan(job, plan), plan)
    _refuse_others_shards(job)
    job.accounts.mkdir(parents=True, exist_ok=True)
    files.write_whole(plan, json.dumps(job.about(), indent=1), durable=True)
    return None


def damaged(job: Job, manifest: Mapping[str, Any]) -> str:
    """What is wrong with the files of a manifest, by their sizes; "" if nothing is."""
    for entry in manifest["shards"]:
        path = job.folder / entry["file"]
        if not path.is_file():
            return f"{entry['file']} is not there"
        if path.stat().st_size != entry["bytes"]:
            return f"{entry['file']} has {path.stat().st_size:,} bytes, not {entry['bytes']:,}"
    return ""


def finish(
    job: Job,
    accounts: Sequence[Mapping[str, Any]],
    *,
    class_names: Sequence[str] = (),
    left_out: Sequence[tuple[str, str]] = (),
    lost: int = 0,
    max_skip: float = 0.01,
) -> dict[str, Any]:
    """Writes the manifest, and removes what only an unfinished conversion needs.

    Args:
        job: the conversion.
        accounts: of all shards.
        class_names: of `label`.
        left_out: (reason, file) of files that the source could not open, and
        lost: about how many records were in them.
        max_skip: largest share of records, and of boxes, that may be lost.

    Raises:
        Unfinished: a shard or a record is not accounted for, or too much is lost; says which.
    """
    by_file = {account["file"]: account for account in accounts if account["key"] == job.key}
    wanted = [job.file(number).name for number in range(job.shards)]
    missing = [name for name in wanted if name not in by_file]
    if missing:
        raise Unfinished(
            f"{len(missing)} of {job.shards} shards are not done, {missing[0]} for one: run the"
            " same command again, it goes on with them"
        )
    ordered = [by_file[name] for name in wanted]
    total = _total(ordered)
    read_again = total["records"] + sum(total["skipped"].values())
    if read_again != job.records:
        raise Unfinished(
            f"the shards account for {read_again:,} of {job.records:,} records: the source has"
            " changed while it was converted"
        )
    check_loss(job, ordered, lost=lost, max_skip=max_skip)
    listed = [{key: a[key] for key in ("file", "records", "bytes", "sha256")} for a in ordered]
    together = hashlib.sha256("".join(a["sha256"] for a in listed).encode()).hexdigest()
    manifest = {
        "job": job.about(),
        **total,
        "bytes": sum(a["bytes"] for a in listed),
        "sha256": together,  # of the shards' hashes, in order
        "class_names": list(class_names),
        "left_out": [[reason, pathlib.PurePath(file).name] for reason, file in left_out],
        "shards": listed,
    }
    files.write_whole(job.manifest, json.dumps(manifest, indent=1) + "\n", durable=True)
    _clean(job)
    return manifest


def check_loss(
    job: Job, accounts: Sequence[Mapping[str, Any]], *, lost: int = 0, max_skip: float
) -> None:
    """Refuses to lose more than `max_skip` of the records, or of the boxes, of a conversion.

    While shards are lacking, it is refused only if it would be with nothing lost in them: bad
    records often stand together. Of the boxes in them it is assumed that there are as many a
    record as in those that are there.

    Raises:
        Unfinished: with the table of reasons.
    """
    total = _total(accounts)
    skipped, parts = sum(total["skipped"].values()), total["parts"]
    dropped, read = sum(parts["dropped"].values()), total["records"] + skipped
    boxes = parts["seen"] * job.records / max(read, 1)
    for what, count, seen, of_all in (
        ("records", skipped + lost, read + lost, job.records + lost),
        ("boxes", dropped, parts["seen"], boxes),
    ):
        if count > max_skip * max(of_all, MINIMUM if max_skip else 0):
            raise Unfinished(
                f"{count:,} of {seen:,} {what} cannot be used, more than max_skip={max_skip:g}"
                f" allows:\n{table(total)}\nMend {job.source} and remove {job.accounts}, or raise"
                " --max-skip"
            )


def table(total: Mapping[str, Any]) -> str:
    """What was lost, a line for each reason with the first records of it."""
    lines = []
    for reason, count in sorted(total["skipped"].items(), key=lambda item: -item[1]):
        lines.append(f"  {count:>8,}  {reason}")
        lines += [f"            {each}" for each in total["examples"].get(reason, ())]
    for reason, count in sorted(total["parts"]["dropped"].items(), key=lambda item: -item[1]):
        lines.append(f"  {count:>8,}  (box) {reason}")
    lines += [f"  {total['parts']['advice']}"] if total["parts"]["advice"] else []
    return "\n".join(lines)


def _total(accounts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    skipped: collections.Counter[str] = collections.Counter()
    dropped: collections.Counter[str] = collections.Counter()
    named: dict[str, list[str]] = {}
    schema: dict[str, collections.Counter[str]] = {}
    for account in accounts:
        skipped.update(account["skipped"])
        dropped.update(account["parts"]["dropped"])
        for reason, records in account["examples"].items():
            named[reason] = [*named.get(reason, []), *records][: shards.NAMED]
        for field, kinds in account["schema"].items():
            schema.setdefault(field, collections.Counter()).update(kinds)
    advices = [a["parts"]["advice"] for a in accounts if a["parts"]["advice"]]
    return {
        "records": sum(account["records"] for account in accounts),
        "skipped": dict(sorted(skipped.items())),
        "examples": dict(sorted(named.items())),
        "parts": {
            "seen": sum(account["parts"]["seen"] for account in accounts),
            "dropped": dict(sorted(dropped.items())),
            "advice": advices[0] if advices else "",
        },
        "schema": {field: dict(sorted(kinds.items())) for field, kinds in sorted(schema.items())},
    }


def _clean(job: Job) -> None:
    """Removes what only an unfinished conversion needs, and what a kill has left half-written."""
    shutil.rmtree(job.accounts, ignore_errors=True)
    own = {job.manifest.name, *(job.file(number).name for number in range(job.shards))}
    for path in job.folder.glob(f"{job.name}*.tmp"):
        if path.name.rsplit(".", 2)[0] in own:  # as `files.whole` names them
            path.unlink(missing_ok=True)


def _plan(job: Job, path: pathlib.Path) -> Any:
    """What the unfinished conversion in the folder is of."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise OtherConversion(
            f"{path} is damaged: {error}. Remove {job.accounts} to begin anew"
        ) from error


def _refuse_others_shards(job: Job) -> None:
    """Refuses shards of another number under the same name: they would be read with these."""
    own = {job.file(number).name for number in range(job.shards)}
    shard = re.compile(rf"{re.escape(job.name)}-\d+-of-\d+\{job.file(0).suffix}")
    there = (path.name for path in job.folder.glob(f"{job.name}-*"))
    others = sorted(name for name in there if name not in own and shard.fullmatch(name))
    if others:
        raise OtherConversion(
            f"{job.folder} has {len(others):,} shards of another conversion, {others[0]} for one,"
            f" which would be read together with these. Remove them, or give another --out or"
            " --name"
        )


def _refuse_other(job: Job, there: Any, path: pathlib.Path) -> None:
    if there == job.about():
        return
    there = there if isinstance(there, dict) else {}
    changed = [
        f"{name} was {there.get(name)!r}, now {value!r}"
        for name, value in job.about().items()
        if there.get(name) != value
    ]
    raise OtherConversion(
        f"{path} is of another conversion: {'; '.join(changed)}. Give another --out or --name, or"
        " remove what is there"
    )
