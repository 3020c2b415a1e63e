"""The settings that are planned: for a platform that is not here, and with smaller batches."""

from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from unified_fm.config import chosen, file
from unified_fm.config.settings import Settings, Teacher


def for_platform(settings: Settings, platform: str, remat: str | None = None) -> Settings:
    """The settings with what "auto" means on a platform, and perhaps another `remat`.

    Args:
        settings: of the run.
        platform: of JAX; on "cpu" everything stays as it is.
        remat: of all stacks; None = as it is.

    Raises:
        ValueError: a model that cannot do this, or a teacher whose model nobody tells.
    """
    teachers = {
        name: _known(name, teacher).replace(
            model=_model(_told(name, teacher), platform, None, f"teachers.{name}.model")
        )
        for name, teacher in settings.teachers.items()
        if not teacher.cache
    }
    return settings.replace(
        model=_model(settings.model, platform, remat, "model"),
        teachers={**settings.teachers, **teachers},
    )


def halved(settings: Settings) -> Settings | None:
    """The settings with half as many rows in every batch; None where they cannot be halved."""
    streams = {}
    for name, stream in settings.streams.items():
        numbers = [n for n in (stream.batch_size, stream.images) if n is not None]
        per_group = [n / (stream.groups or 1) for n in numbers]
        if any(number % 2 for number in per_group):
            return None
        images = None if stream.images is None else stream.images // 2
        changed = {"batch_size": stream.batch_size // 2}
        streams[name] = stream.replace(**changed, **({"images": images} if images else {}))
    return settings.replace(streams=streams)


def accumulated(
    settings: Settings, count: int, parts: int, grouped: Collection[str]
) -> dict[str, int] | None:
    """What makes a batch in so many micro-batches: {key of the config: number}.

    Args:
        settings: of the run.
        count: of micro-batches.
        parts: into which the mesh cuts each of them.
        grouped: streams whose rows refer to each other; their groups stay whole.

    Returns:
        `accumulate`, and the groups that have to become more; None where there are too few rows.
    """
    changes, pieces = {"accumulate": count}, parts * count
    for name, stream in settings.streams.items():
        numbers = [n for n in (stream.batch_size, stream.images) if n is not None]
        groups = stream.groups or 1
        if name not in grouped and groups == 1:
            possible = [groups] if stream.batch_size % pieces == 0 else []
        else:  # of two rows at least: one has nothing to be compared with
            multiples = range(pieces, min(numbers) // 2 + 1, pieces)
            possible = [n for n in multiples if n >= groups and not any(m % n for m in numbers)]
        if not possible:
            return None
        if possible[0] != groups:
            changes[f"streams.{name}.groups"] = possible[0]
    return changes


def rows(settings: Settings, parts: int) -> dict[str, tuple[float, float]]:
    """{stream: (rows, images) of one of so many parts of a batch}; no images: they are rows."""
    return {
        name: (stream.batch_size / parts, (stream.images or 0) / parts)
        for name, stream in settings.streams.items()
    }


def _model(
    given: Mapping[str, Any], platform: str, remat: str | None, where: str
) -> Mapping[str, Any]:
    """Options of a model with what "auto" would choose on the platform."""
    options = vars(chosen.model(given, where))
    meant = {} if platform == "cpu" else {"layer_loop": "scan"}
    if platform == "cuda":  # cuDNN's is built with a library that comes with GPUs
        meant["attention"] = "einsum"
    changes = {key: value for key, value in meant.items() if options.get(key) == "auto"}
    if remat is not None:
        if "remat" not in options:
            raise ValueError(f"{where} {given.get('name')!r} has no option 'remat'")
        changes["remat"] = remat
    return {**given, **changes}


def _known(name: str, teacher: Teacher) -> Teacher:
    """The teacher as one whose folder need not be there: its shapes come from its model alone."""
    return teacher if teacher.path or teacher.init else teacher.replace(path=f"teachers/{name}")


def _told(name: str, teacher: Teacher) -> Mapping[str, Any]:
    """The options of a teacher's model: its own, its config's, its folder's or its namesake's."""
    from unified_fm.teachers import transform

    if teacher.model:
        return teacher.model
    if isinstance(teacher.config, Settings):
        return teacher.config.model
    try:
        return transform.saved_model(name, teacher.path, ())
    except ValueError as missing:
        config = epath.Path(teacher.path or "").name
        try:
            return file.load(config).model
        except (ValueError, TypeError):
            raise ValueError(
                f"teachers.{name}: its model is not known. {teacher.path or teacher.init} is not "
                f"here, and no config of the library is named {config!r}. Give "
                f"--config.teachers.{name}.config=FILE.py, or --config.teachers.{name}.model=..."
            ) from missing
