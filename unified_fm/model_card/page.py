"""A model card: README.md of a folder with weights, as the Hugging Face Hub reads it.

Every number is taken from the checkpoint, from the run's own scores or from a scoreboard.json;
where nothing was measured the card says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from unified_fm import files
from unified_fm.model_card.about import LIBRARY, UNSTATED, About
from unified_fm.model_card.data import NOT_HERE, without_folders
from unified_fm.model_card.metadata import front_matter
from unified_fm.scoreboard import page as scoreboard
from unified_fm.scoreboard import row as rows_of

MARK = "<!-- made by unified-fm card: what is written by hand here is lost when it is made anew -->"
_TEMPLATE = "---\n{{ card_data }}\n---\n\n{{ text }}\n"


def card(about: About) -> str:
    """The whole text of README.md."""
    sections = (_head, _use, _model, _data, _own, _fine_tuned, _cannot, _reading, _again, _licence)
    text = "\n\n".join("\n".join(lines) for part in sections if (lines := list(part(about))))
    return str(ModelCard.from_template(front_matter(about), template_str=_TEMPLATE, text=text))


def write(path: Path, about: About) -> None:
    """Writes the card; again in place of an earlier one.

    Raises:
        FileExistsError: somebody has written what is there; it stays.
        OSError: it could not be written.
    """
    if path.exists() and MARK not in path.read_text("utf-8", errors="replace"):
        raise FileExistsError(f"{path} was not made by unified-fm card, and stays as it is")
    files.write_whole(path, card(about))


def _head(about: About) -> Iterator[str]:
    yield f"# {about.name}"
    yield ""
    yield MARK
    yield ""
    info, origin = about.info, ""
    if about.exported:
        origin = f", exported as `{about.exported}`"
    yield f"A `{info['model']}` of {info['parameters']:,} parameters, made with {LIBRARY}{origin}."
    if info.get("tasks"):
        yield f"It can: {', '.join(info['tasks'])}."


def _use(about: About) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```python"
    yield "import unified_fm"
    yield ""
    yield f'model = unified_fm.load("{about.name}")  # the folder'
    if about.library == "transformers":
        yield ""
        yield "# or"
        yield "from transformers import AutoModel"
        yield ""
        yield f'model = AutoModel.from_pretrained("{about.name}")'
    yield "```"


def _model(about: About) -> Iterator[str]:
    info = about.info
    yield "## What it is"
    yield ""
    facts = {
        "parameters": f"{info['parameters']:,}",
        **{f"of these `{name}`": f"{count:,}" for name, count in info.get("parts", {}).items()},
        **({} if about.exported else _towers(about.model)),
        "step of the checkpoint": info.get("step"),
        "seed": about.config.get("seed"),
        "parameters are": "their running average" if info.get("averaged") else None,
        "started from": _started(about.config.get("init")),
        **{f"sha256 of {name}": f"`{digest}`" for name, digest in info.get("sha256", {}).items()},
    }
    found = [(name, value) for name, value in facts.items() if value is not None]
    yield from scoreboard.table(("", ""), found)


def _towers(model: Mapping[str, Any]) -> dict[str, str]:
    """{"text encoder": "2 layers of width 64, 2 heads"}."""
    return {
        f"`{name}`": f"{tower['layers']} layers of width {tower['width']}, {tower['heads']} heads"
        for name, tower in model.items()
        if isinstance(tower, Mapping) and {"layers", "width", "heads"} <= tower.keys()
    }


def _started(init: Any) -> str | None:
    """The names that a config starts from, without folders of this machine."""
    given = init if isinstance(init, Mapping) else {"path": init}
    sources = [str(given[key]) for key in ("path", "all", "text", "vision") if given.get(key)]
    return ", ".join(f"`{without_folders(each)}`" for each in sources) or None


def _data(about: About) -> Iterator[str]:
    yield "## What it was trained on"
    yield ""
    if not about.used:
        yield "Not known: the weights came without the config of a run."
        return
    head = ("stream", "source", "records", "hash", "licences")
    lines = [
        (
            each.stream,
            f"`{each.source}`",
            NOT_HERE if each.records is None else f"{each.records:,}",
            f"`{each.hash}`" if each.hash else "-",
            "; ".join(each.licences) or "not known to the library",
        )
        for each in about.used
    ]
    yield from scoreboard.table(head, lines)
    yield ""
    yield "A hash is of some records, as they are read; records may be composed as they are read."
    if started := _started(about.config.get("init")):
        yield f"It started from {started}, whose own data are not in this list."
    teachers = about.config.get("teachers")
    if isinstance(teachers, Mapping) and teachers:
        yield f"Teachers: {', '.join(f'`{name}`' for name in teachers)}."


def _own(about: About) -> Iterator[str]:
    yield "## What was measured"
    yield ""
    if not about.evaluated:
        yield "No scored predictions are kept beside these parameters."
        return
    head = ("metric", "data", "n", "value [95 % interval]", "chance", "chance is")
    lines = [
        (
            f"{one.evaluator}/{one.metric}",
            f"`{one.source}`",
            f"{one.n:,}",
            scoreboard.with_interval(one.value, one.unit),
            "-" if one.chance is None else scoreboard.number(one.chance, one.unit),
            one.chance_is,
        )
        for one in about.evaluated
    ]
    yield from scoreboard.table(head, lines)
    notes = dict.fromkeys(
        f"{one.evaluator}: {note}" for one in about.evaluated for note in one.notes
    )
    yield from _listed(list(notes))


def _fine_tuned(about: About) -> Iterator[str]:
    if not about.rows:
        return
    yield "## After fine-tuning from it"
    yield ""
    yield "Other models than this one: each was trained from it on the task of its row, and beside"
    yield "it the same from new parameters. Values are means over seeds, with 95 % intervals."
    yield ""
    yield from scoreboard.summary(about.rows, about.board)
    yield ""
    yield from scoreboard.rows_table(about.rows)
    yield from _listed(scoreboard.notes(about.rows))
    chances = (f"chance in {r.task}: {r.chance_is}" for r in about.rows if r.chance is not None)
    yield from _listed(list(dict.fromkeys(chances)))
    published = [
        f"{row.task}, {row.metric}: {system} {scoreboard.number(value, row.unit)}"
        for row in about.rows
        for system, value in row.published.items()
    ]
    if published:
        yield ""
        yield "Published by others, with other data and other sizes; not measured here:"
        yield from _listed(published)
    yield ""
    yield from scoreboard.table(
        ("how it was measured", ""),
        [(name, without_folders(value)) for name, value in about.board.facts.items()],
    )
    hashes = sorted({f"`{each}`" for row in about.rows for each in row.hashes.get("data", ())})
    if hashes:
        yield ""
        yield f"Hashes of the data of these tasks: {', '.join(hashes)}."


def _cannot(about: About) -> Iterator[str]:
    info = about.info
    lines = [f"`{name}`: {why}" for name, why in info.get("lacks", {}).items()]
    for row in about.measured_rows:
        what = f"{row.task}{f' with {row.labels} labels' if row.labels else ''}, {row.metric}"
        if row.says != rows_of.HELPS or row.alone:
            lines.append(f"{what}: {row.verdict}")
        if row.above_chance is False:
            lines.append(f"{what}: not above chance")
    size = (info.get("images") or {}).get("size")
    if size:
        lines.append(f"Pictures are resized to {size} x {size} pixels; finer things are not seen.")
    for kind, options in (info.get("texts") or {}).items():
        if options:
            lines.append(f"Texts {kind} are cut after {options['max_len']} tokens.")
    if about.used:
        lines.append("Nothing is claimed about other data than those above.")
    if lines:
        yield "## What it cannot do"
        yield from _listed(lines)


def _reading(about: About) -> Iterator[str]:
    info = about.info
    facts = {"images": info.get("images"), **(info.get("texts") or {})}
    lines = [
        (what, ", ".join(f"{name} {value}" for name, value in options.items()))
        for what, options in facts.items()
        if options
    ]
    for name in ("mean", "std"):
        if isinstance(numbers := about.model.get(name), list | tuple):
            lines.append((f"{name} of the channels", ", ".join(map(str, numbers))))
    if lines:
        yield "## How pictures and texts are read"
        yield ""
        yield from scoreboard.table(("", ""), lines)


def _again(about: About) -> Iterator[str]:
    if about.exported or not about.used:
        return
    yield "## To do it again"
    yield ""
    yield "`config.json` of the run has every setting. As a config, `again.py` beside it:"
    yield ""
    yield "```python"
    yield "import pathlib"
    yield ""
    yield "from unified_fm.config import saved"
    yield ""
    yield ""
    yield "def get_config():"
    yield "    return saved.read(pathlib.Path(__file__).parent, modules=[])"
    yield "```"
    yield ""
    yield f"    unified-fm train --config={about.name}/again.py --workdir=again"
    if about.info.get("step") is not None:
        yield f"    unified-fm evaluate --run={about.name} --step={about.info['step']}"
    command = about.board.facts.get("command")
    if command:
        yield f"    {without_folders(command)}"


def _licence(about: About) -> Iterator[str]:
    yield "## Licence"
    yield ""
    if about.license == UNSTATED:
        yield "Nobody has stated one for these weights. The data have their own."
    else:
        yield f"`{about.license}`, as stated by whoever made this card. The data have their own."


def _listed(lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield from (f"- {line}" for line in lines)
