"""What a teacher says, written once and read by many runs: `unified-fm cache` makes it.

The streams are deterministic: what stands in slot s of a stream, its augmentation and its masks are
a function of the seed, the stream's config and s alone. So the key of a cached target is the slot,
and a run reads the rows of the very images and masked words that it sees. `about.json` keeps all
that the slots depend on; a run that differs in any of it is refused.

    CACHE/about.json
    CACHE/STREAM.KEY.ids.npy       i32[slots ... k]  the k best classes or words, the best first
    CACHE/STREAM.KEY.logits.npy    f32[slots ... k]  their logits
    CACHE/STREAM.KEY.rest.npy      f32[slots ... n]  what all others have together

With k below the number of classes (or words) C, the others are one lump (`objectives/lumps.py`).
What they have together depends on the divergence and on its temperature, so there is a column for
each pair that the objectives of the config ask for, and a run that asks for another is refused.
With k = C the cache has what the teacher says, for any divergence of logits and any temperature.

A long run sees its data more often than a cache can hold. The stream's option `cycle=E` repeats the
first E epochs, augmentation and masks included, so that a cache of E epochs serves any length.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import buckets
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.objectives import lumps
from unified_fm.teachers.bucket_array import BucketArray

# Of a stream's config: what changes neither the order nor the arrays of its slots.
_IRRELEVANT = ("objectives", "batch_size", "threads", "max_skip", "cycle", "groups")
KINDS = (*lumps.KINDS, "hard")  # divergences for which the best k (and the rest) are enough
LITTLE = 0.95  # a mean probability of the best k below this is worth a warning

Need = tuple[str, float]  # a divergence and its temperature
Reader = Callable[[np.ndarray], dict[str, Any]]  # of the arrays that belong to slots i64[n]
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """One teacher's cache, opened; the arrays stay on disk, or in the bucket.

    Attributes:
        about: what `about.json` says: `keys`, {key: C}; `teacher`; and for each of `streams` its
            `slots`, `keys`, `data` (`data_of`), and `rests`, {key: a dict of `kind`, `temperature`
            and `mass_of_best` for each column of the rest}. `mass_of_best` is the mean over all
            examples (or masked words) of the probability that the best k have at that temperature;
            of questions ("sigmoid_kl") the probability that no other answer is a yes.
        arrays: {stream: {key: {"ids": i32[slots ... k], "logits": f32[slots ... k],
            "rest": f32[slots ... n], if k < C}}}.
    """

    about: Mapping[str, Any]
    arrays: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def rows(self, stream: str, slots: np.ndarray) -> dict[str, dict[str, Any]]:
        """{key: {"ids", "logits", "rests"}} of some slots of a stream, rows on axis 0.

        `rests` is {"kl at T=1.0": f32[rows ...]}, as `targets` takes it; empty if k = C.
        """
        found = {}
        for key, arrays in self.arrays[stream].items():
            names = _names(self.about["streams"][stream]["rests"][key])
            rests = arrays["rest"][slots] if names else np.empty(0)
            found[key] = {
                "ids": arrays["ids"][slots],
                "logits": arrays["logits"][slots],
                "rests": {name: rests[..., i] for i, name in enumerate(names)},
            }
        return found


def readers(settings: Settings, total: Callable[[], int]) -> dict[str, Callable[[Any], Reader]]:
    """What a run's streams read beside their own arrays: `extra` of `data.streams.Streams`.

    Opening them refuses a cache of other data, one that is too short, or one that does not hold
    what an objective needs: a ValueError with both sides' values.

    Args:
        settings: of the run.
        total: gives the steps of the run; asked when a stream that has a cache is opened.

    Returns:
        {stream: opens, for its loader, the reader of `cached`, {teacher: what it says of slots}}.
    """
    return {
        stream: functools.partial(_reader, settings, total, stream, members)
        for stream, members in _opened(settings).items()
    }


def examples(settings: Settings) -> dict[str, dict[str, Any]]:
    """{stream: what its reader would give for one slot}; no data is compared with the caches."""
    one = np.zeros(1, np.int64)
    return {stream: _read(stream, caches, one) for stream, caches in _opened(settings).items()}


def _opened(settings: Settings) -> dict[str, dict[str, Cache]]:
    """{stream: {teacher: its cache}}."""
    caches: dict[str, dict[str, Cache]] = {}
    for name, entry in settings.teachers.items():
        if entry.cache:
            cache = open_cache(entry.cache)
            for stream in entry.streams or ():
                caches.setdefault(stream, {})[name] = cache
    return caches


def _reader(settings: Settings, total, stream, caches: Mapping[str, Cache], loader) -> Reader:
    for name, cache in caches.items():
        _check(name, cache, settings, total, stream, loader)
    return functools.partial(_read, stream, caches)


def _read(stream: str, caches: Mapping[str, Cache], slots: np.ndarray) -> dict[str, Any]:
    return {"cached": {name: cache.rows(stream, slots) for name, cache in caches.items()}}


def open_cache(folder: Any) -> Cache:
    """Opens a cache.

    Raises:
        ValueError: there is none, it is damaged, or what it has of the rest cannot be used.
    """
    folder = buckets.path(folder)
    try:
        about = json.loads(buckets.read(folder / "about.json").decode("utf-8"))
        arrays = {
            stream: {key: _arrays(folder, stream, key) for key in entry["keys"]}
            for stream, entry in about["streams"].items()
        }
        facts = [  # all that is read of about.json without a doubt from here on
            (stream, key, int(about["keys"][key]), entry.setdefault("rests", {}).get(key))
            for stream, entry in about["streams"].items()
            for key in entry["keys"]
        ]
        names = {(stream, key): _names(columns or ()) for stream, key, _, columns in facts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no teacher's cache in {folder}: {error!r}") from error
    for stream, key, classes, columns in facts:
        known = None if columns is None else names[stream, key]
        _check_rest(folder, f"{stream}/{key}", arrays[stream][key], classes, known)
        about["streams"][stream]["rests"].setdefault(key, [])
    return Cache(about=about, arrays=arrays)


def files(folder: Any, stream: str, key: str) -> dict[str, Any]:
    """The files of the arrays `ids`, `logits` and `rest` below a path."""
    return {what: folder / f"{stream}.{key}.{what}.npy" for what in ("ids", "logits", "rest")}


def best(logits: jax.Array, top: int, needs: Sequence[Need]) -> dict[str, jax.Array]:
    """What is cached of logits f32[... C]: `ids`, `logits`, and `rest` if some are left over.

    At most `top` of a teacher; `needs` is what each column of `rest` is for; see `lumps_of`.
    """
    values, ids = jax.lax.top_k(logits, min(top, logits.shape[-1]))
    found = {"ids": ids, "logits": values}
    if top < logits.shape[-1] and needs:
        rests = [lumps.rest(kind, logits, ids, temperature) for kind, temperature in needs]
        found["rest"] = jnp.stack(rests, axis=-1)
    return found


def lumps_of(needs: Sequence[Need]) -> list[Need]:
    """Those of some divergences that need to know what the others have together."""
    return sorted({need for need in needs if need[0] in lumps.KINDS})


def mass_of_best(kind: str, logits: np.ndarray, rest: np.ndarray, temperature: float) -> np.ndarray:
    """The probability f64[...] of the best k, of their logits f32[... k] and the rest f32[...]."""
    rest = np.asarray(rest, np.float64)
    if kind == "kl":
        whole = np.logaddexp.reduce(np.asarray(logits, np.float64) / temperature, axis=-1)
        rest = rest - whole
    return np.exp(-np.logaddexp(0, rest))  # of odds exp(rest) against


def targets(
    cached: Mapping[str, Mapping[str, Any]], classes: Mapping[str, int]
) -> dict[str, jax.Array | lumps.Truncated]:
    """What a cached teacher says by key: all logits f32[... C], or what is known of them.

    Args:
        cached: {key: {"ids", "logits", "rests"}} as `Cache.rows` gives them.
        classes: {key: C}.
    """
    found: dict[str, jax.Array | lumps.Truncated] = {}
    for key, arrays in cached.items():
        ids, logits = arrays["ids"], arrays["logits"]
        if ids.shape[-1] < classes[key]:
            found[key] = lumps.Truncated(
                ids=ids, logits=logits, rests=arrays["rests"], classes=classes[key]
            )
        else:  # every place is written to
            empty = jnp.zeros((*ids.shape[:-1], classes[key]), jnp.float32)
            found[key] = jnp.put_along_axis(empty, ids, logits, axis=-1, inplace=False)
    return found


def warn_of_little_mass(where: str, stream: str, rests: Mapping[str, Any]) -> None:
    """Logs a warning for every lump that has much of the probability.

    `where` says whose cache it is; `rests` are those of the stream in `about.json`.
    """
    for key, columns in rests.items():
        for name, column in zip(_names(columns), columns, strict=True):
            if column["mass_of_best"] < LITTLE:
                _log.warning(
                    "%s: the best of stream %r, %r have %.3f of the probability on average (%s), "
                    "less than %.2f: how the rest is divided is not taught; a larger --top of "
                    "unified-fm cache keeps more",
                    *(where, stream, key, column["mass_of_best"], name, LITTLE),
                )


def data_of(settings: Settings, stream: str, loader: Any) -> dict[str, Any]:
    """All that the slots of a stream depend on, as JSON values; `loader` is the stream's."""
    options = {k: v for k, v in settings.streams[stream].plain().items() if k not in _IRRELEVANT}
    found = {"seed": settings.seed, "tokenizer": settings.tokenizer, "records": loader.records}
    if stages := loader.order.form.get("stages"):  # in slots, as batches of another size move them
        found["stages"] = stages
    return json.loads(json.dumps(found | {"stream": options}))


def keys_needed(settings: Settings, teacher: str, stream: str) -> dict[str, list[Need]]:
    """{key: (divergence, temperature) of each objective} that a stream reads of a teacher."""
    needed: dict[str, list[Need]] = {}
    for name, value in settings.streams[stream].objectives.items():
        lesson = chosen.objective(name, value)[0].lessons.get(teacher)
        if lesson is not None:
            needed.setdefault(lesson.key, []).append((lesson.kind, float(lesson.temperature)))
    return needed


def check_kinds(where: str, needs: Sequence[Need], k: int, classes: int) -> None:
    """Refuses a divergence for which the best k of some classes are not enough.

    Raises:
        ValueError: with those that are possible.
    """
    for kind, _ in needs:
        if kind not in KINDS and k < classes:
            raise ValueError(
                f"{where} has the best {k} of {classes} logits; kind={kind!r} needs all of them "
                f"(--top={classes}; possible with fewer: {', '.join(KINDS)})"
            )


def _names(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    return [lumps.name(column["kind"], column["temperature"]) for column in columns]


def _arrays(folder, stream, key) -> dict[str, Any]:
    return {
        what: BucketArray(path)
        if buckets.holds(path)
        else np.load(path, mmap_mode="r", allow_pickle=False)
        for what, path in files(folder, stream, key).items()
        if what != "rest" or buckets.exists(path)
    }


def _check_rest(folder, where, arrays, classes, names) -> None:
    """Refuses arrays whose rest is not what `about.json` says of it; `names` is None if nothing."""
    k, logits = arrays["ids"].shape[-1], arrays["logits"].shape[-1]
    again = "make it again with `unified-fm cache`"
    if k < classes and names is None:
        raise ValueError(
            f"the teacher's cache {folder} has the best {k} of {classes} logits of {where} and "
            "does not say what the others have together; caches were once made with one and the "
            f"same logit for each of them, which is a wrong target: {again}"
        )
    found, named = arrays["rest"].shape[-1] if "rest" in arrays else 0, len(names or ())
    if logits != k or found != named:
        raise ValueError(
            f"the teacher's cache {folder} has {logits} logits and {found} columns of the rest for "
            f"the best {k} of {where}, not {k} and {named}: {again}"
        )


def _check(name, cache, settings: Settings, total, stream, loader) -> None:
    folder = settings.teachers[name].cache
    where = f"teachers.{name}: the cache {folder}"
    held = cache.about["streams"]
    if stream not in held:
        raise ValueError(f"{where} has the streams {', '.join(held)}, not {stream!r}")
    then, now = held[stream]["data"], data_of(settings, stream, loader)
    lines = [
        f"{k}: {then.get(k)} in the cache, {v} now" for k, v in now.items() if then.get(k) != v
    ]
    if lines:
        raise ValueError("\n  ".join([f"{where} is of other data than stream {stream!r}:", *lines]))
    slots, needed = held[stream]["slots"], loader.slots * total()
    if loader.cycle:
        needed = min(needed, loader.cycle * loader.records)
    if slots < needed:
        raise ValueError(
            f"{where} has {slots} examples of stream {stream!r}, the run sees {needed}; the "
            f"stream's option cycle={max(1, slots // loader.records)} repeats as many epochs"
        )
    _check_needs(where, cache, stream, keys_needed(settings, name, stream))


def _check_needs(where, cache, stream, needed) -> None:
    """Refuses a cache that has not what the objectives of a stream ask for."""
    held, used = cache.about["streams"][stream], {}
    for key, needs in needed.items():
        if key not in held["keys"]:
            raise ValueError(f"{where} has {', '.join(held['keys'])}, not {key!r}")
        k, classes = cache.arrays[stream][key]["ids"].shape[-1], cache.about["keys"][key]
        check_kinds(where, needs, k, classes)
        if k == classes:
            continue
        wanted = [lumps.name(*need) for need in lumps_of(needs)]
        columns = dict(zip(_names(held["rests"][key]), held["rests"][key], strict=True))
        for name in wanted:
            if name not in columns:
                raise ValueError(
                    f"{where} has the best {k} of {classes} logits of stream {stream!r} and what "
                    f"the others have together for {', '.join(columns) or 'nothing'}, not for "
                    f"{name}: change distill, or make it again with `unified-fm cache`"
                )
        used[key] = [columns[name] for name in wanted]
    warn_of_little_mass(where, stream, used)
