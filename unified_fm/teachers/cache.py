"""What a teacher says, written once and read by many runs: `tools/cache_teacher.py` makes it.

The streams are deterministic: what stands in slot s of a stream, its augmentation and its masks are
a function of the seed, the stream's config and s alone. So the key of a cached target is the slot,
and a run reads the rows of the very images and masked words that it sees. `about.json` keeps all
that the slots depend on; a run that differs in any of it is refused.

    CACHE/about.json
    CACHE/STREAM.KEY.ids.npy       i32[slots ... k]   the k best classes or words
    CACHE/STREAM.KEY.logits.npy    f32[slots ... k+1] their logits, then one for each of the rest

With k below the number of classes (or words) C, the others share their probability evenly: each has
the logit log(mean(exp(u))) of theirs. At temperature 1 the best k and the rest have exactly the
probabilities that the teacher gives them. Without the rest, a vague teacher would teach that words
beyond its best k never come. With k = C the cache has what the teacher says, and there is no
last column.

A long run sees its data more often than a cache can hold. The stream's option `cycle=E` repeats the
first E epochs, augmentation and masks included, so that a cache of E epochs serves any length.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Of a stream's config: what changes neither the order nor the arrays of its slots.
_IRRELEVANT = ("objectives", "batch_size", "threads", "max_skip", "cycle")
KINDS = ("kl", "hard")  # divergences for which the teacher's best k are enough


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """One teacher's cache, opened; the arrays stay on disk.

    Attributes:
        about: what `about.json` says.
        arrays: {stream: {key: (ids i32[slots ... k], logits as above)}}.
    """

    about: Mapping[str, Any]
    arrays: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]

    def rows(self, stream: str, slots: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """{key: {"ids", "logits"}} of some slots of a stream, rows on axis 0."""
        return {
            key: {"ids": ids[slots], "logits": logits[slots]}
            for key, (ids, logits) in self.arrays[stream].items()
        }


class CachedStreams:
    """Streams whose batches also have `cached`, {teacher: what it says}; else as they were."""

    def __init__(self, streams: Any, caches: Mapping[str, Cache]):
        self._streams = streams
        self._caches = caches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streams, name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        before = self._streams.state()["streams"]
        batches = dict(next(self._streams))
        for name, cache in self._caches.items():
            for stream in cache.arrays:
                loader = self._streams.loaders[stream]
                start = before[stream]["samples"]
                places = range(loader.local_slots)
                slots = [loader.in_cycle(loader.slot_of(start, place)) for place in places]
                cached = batches[stream].get("cached", {})
                cached = {**cached, name: cache.rows(stream, np.array(slots))}
                batches[stream] = {**batches[stream], "cached": cached}
        return batches


def with_caches(streams: Any, config: Mapping[str, Any]) -> Any:
    """The streams of a run, with the rows of its teachers' caches if there are any.

    Raises:
        ValueError: a cache of other data, one that is too short, or one that does not hold what an
            objective needs: with both sides' values.
    """
    caches = {}
    for name, entry in config["teachers"].items():
        if entry.get("cache"):
            cache = open_cache(entry["cache"])
            for stream in entry["streams"]:
                _check(name, entry["cache"], cache, config, stream, streams.loaders[stream])
            arrays = {stream: cache.arrays[stream] for stream in entry["streams"]}
            caches[name] = dataclasses.replace(cache, arrays=arrays)
    return CachedStreams(streams, caches) if caches else streams


def open_cache(folder: Any) -> Cache:
    """Opens a cache.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        arrays = {
            stream: {
                key: tuple(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
                for key, paths in files(folder, stream, entry["keys"]).items()
            }
            for stream, entry in about["streams"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"no teacher's cache in {folder}: {error!r}") from error
    for stream, held in arrays.items():
        for key, (ids, logits) in held.items():
            k, classes = ids.shape[-1], about["keys"][key]
            if logits.shape[-1] != k + (k < classes):
                raise ValueError(
                    f"the teacher's cache {folder} has {logits.shape[-1]} logits of {stream}/{key} "
                    f"for the best {k} of {classes}, not {k + (k < classes)}: make it again with "
                    "tools/cache_teacher.py"
                )
    return Cache(about=about, arrays=arrays)


def files(folder: Path, stream: str, keys: Any) -> dict[str, tuple[Path, Path]]:
    """{key: (file of ids, file of logits)}."""
    return {
        key: tuple(folder / f"{stream}.{key}.{what}.npy" for what in ("ids", "logits"))
        for key in keys
    }


def best(logits: jax.Array, top: int) -> tuple[jax.Array, jax.Array]:
    """What is cached of logits f32[... C]: ids i32[... k] and logits f32[... k+1] (or k if k = C).

    Args:
        logits: of a teacher.
        top: k, at most.
    """
    classes = logits.shape[-1]
    values, ids = jax.lax.top_k(logits, min(top, classes))
    if top < classes:
        others = jnp.put_along_axis(logits, ids, -jnp.inf, axis=-1, inplace=False)
        rest = jax.nn.logsumexp(others, axis=-1, keepdims=True) - np.log(classes - top)
        values = jnp.concatenate([values, rest], axis=-1)
    return ids, values


def targets(
    cached: Mapping[str, Mapping[str, Any]], classes: Mapping[str, int]
) -> dict[str, jax.Array]:
    """The logits of a cached teacher, f32[... C] by key.

    Args:
        cached: {key: {"ids", "logits"}} as `best` makes them.
        classes: {key: C}.
    """
    found = {}
    for key, arrays in cached.items():
        ids, logits = arrays["ids"], arrays["logits"]
        k = ids.shape[-1]
        # Where nothing is left over, every place is written to.
        rest = logits[..., -1:]
        rest = jnp.broadcast_to(rest, (*ids.shape[:-1], classes[key])).astype(jnp.float32)
        found[key] = jnp.put_along_axis(rest, ids, logits[..., :k], axis=-1, inplace=False)
    return found


def data_of(config: Mapping[str, Any], stream: str, records: int) -> dict[str, Any]:
    """All that the slots of a stream depend on, as JSON values."""
    options = {k: v for k, v in config["streams"][stream].items() if k not in _IRRELEVANT}
    found = {"seed": config["seed"], "tokenizer": config["tokenizer"], "records": records}
    return json.loads(json.dumps(found | {"stream": options}))


def keys_needed(config: Mapping[str, Any], teacher: str, stream: str) -> dict[str, str]:
    """{key: kind} of what the objectives of a stream read of a teacher."""
    needed = {}
    for name, value in config["streams"][stream]["objectives"].items():
        options = dict(value) if isinstance(value, Mapping) else {}
        if options.get("name", name) == "distill" and options.get("teacher") == teacher:
            of, kind = options.get("of"), options.get("kind", "kl")
            if kind.startswith("hidden"):
                of = "image_hidden" if of == "image" else "text_hidden"
            elif of == "mlm" and options.get("positions") == "all":
                of = "mlm_all"
            needed[of] = kind
    return needed


def _check(name, folder, cache, config, stream, loader) -> None:
    where = f"teachers.{name}: the cache {folder}"
    held = cache.about["streams"]
    if stream not in held:
        raise ValueError(f"{where} has the streams {', '.join(held)}, not {stream!r}")
    then, now = held[stream]["data"], data_of(config, stream, loader.records)
    lines = [
        f"{k}: {then.get(k)} in the cache, {v} now" for k, v in now.items() if then.get(k) != v
    ]
    if lines:
        raise ValueError("\n  ".join([f"{where} is of other data than stream {stream!r}:", *lines]))
    slots, needed = held[stream]["slots"], loader.slots * config["total_steps"]
    if loader.cycle:
        needed = min(needed, loader.cycle * loader.records)
    if slots < needed:
        raise ValueError(
            f"{where} has {slots} examples of stream {stream!r}, the run sees {needed}; the "
            f"stream's option cycle={max(1, slots // loader.records)} repeats as many epochs"
        )
    for key, kind in keys_needed(config, name, stream).items():
        if key not in held[stream]["keys"]:
            raise ValueError(f"{where} has {', '.join(held[stream]['keys'])}, not {key!r}")
        k, classes = cache.arrays[stream][key][0].shape[-1], cache.about["keys"][key]
        if kind not in KINDS and k < classes:
            raise ValueError(
                f"{where} has the best {k} of {classes} logits; kind={kind!r} needs all of them "
                f"(possible: {', '.join(KINDS)})"
            )
