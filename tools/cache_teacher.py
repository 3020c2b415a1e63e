"""Writes once what a teacher says, so that runs need not ask it again.

    python tools/cache_teacher.py --config=configs/ufm_base.py --workdir=runs/ufm --teacher=vit \
        --to=data/imagenet21k.vit --epochs=2 --top=64

Then `c.teachers.vit = dict(cache="data/imagenet21k.vit", streams=["image"])`, with `cycle=2` in the
stream if the run is longer than two epochs. The rows belong to the images and masked words that a
run of this config, this seed included, sees (`unified_fm/teachers/cache.py`).
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from etils import epath

from unified_fm import assembly, main, plugins, sharding, train
from unified_fm.config import saved
from unified_fm.runtime.interruption import Interruption
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers import runs as teacher_runs
from unified_fm.teachers import transform as teachers


def run(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and writes the cache; returns the exit status."""
    options, overrides = _parser().parse_known_args(arguments)
    flags = [f"--config={options.config}", f"--workdir={options.workdir}", *overrides]
    try:
        config = main.parse(["cache_teacher", *flags])[1]
        config = _of_one(config, options.teacher)
        with Interruption() as stop:
            folder = epath.Path(options.workdir)
            config = teacher_runs.train(config, folder, stop, train.train)
        if config is None:  # a signal came
            return 130
        size = write(config, options.teacher, options.to, epochs=options.epochs, top=options.top)
    except (main.Refused, ValueError, TypeError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.to}, {size / 2**20:,.1f} MiB")
    return 0


def write(config: Mapping[str, Any], name: str, to: Any, *, epochs: int, top: int) -> int:
    """Writes the cache of one teacher, whole or not at all; returns its size in bytes.

    Args:
        config: of a run, complete.
        name: of the teacher.
        to: the new folder.
        epochs: of every stream that the teacher sees.
        top: how many logits are kept; all if there are fewer.

    Raises:
        ValueError: no such teacher, a folder that exists, objectives that a cache cannot serve, or
            a teacher that does not fit.
    """
    to = Path(to)
    if to.exists():
        raise ValueError(f"{to} exists; a cache is not written over anything")
    config = _of_one(config, name)
    partial = to.with_name(f"{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    about: dict[str, Any] = {"keys": {}, "streams": {}, "teacher": config["teachers"][name]}
    for stream in config["teachers"][name]["streams"]:
        about["streams"][stream] = _write_stream(config, name, stream, partial, epochs, top, about)
    (partial / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    size = sum(file.stat().st_size for file in partial.iterdir())
    os.replace(partial, to)
    return size


def _of_one(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The config with this teacher only, and no cache of it."""
    if name not in config["teachers"]:
        raise ValueError(f"no teacher {name!r}; {plugins.possible(name, config['teachers'])}")
    return {**config, "teachers": {name: {**config["teachers"][name], "cache": None}}}


def _write_stream(config, name, stream, folder, epochs, top, about) -> dict[str, Any]:
    needed = teacher_cache.keys_needed(config, name, stream)
    unfit = sorted(set(needed) - {"image", "mlm", "mlm_all"})
    if unfit or not needed:
        raise ValueError(
            f"stream {stream!r} has no objective 'distill' on logits of the teacher {name!r}"
            + (f": a cache holds logits, and {unfit[0]} are states" if unfit else "")
        )
    arrays, slots, records = {}, 0, 0
    for batch in _batches(config, name, stream, sorted(needed), epochs, top, about):
        slots, records = batch["slots"], batch["records"]
        for key, files in teacher_cache.files(folder, stream, needed).items():
            if key not in arrays:
                arrays[key] = [
                    np.lib.format.open_memmap(
                        file, mode="w+", dtype=x.dtype, shape=(slots, *x.shape[1:])
                    )
                    for file, x in zip(files, batch[key], strict=True)
                ]
            for array, x in zip(arrays[key], batch[key], strict=True):
                rows = array[batch["start"] : batch["start"] + len(x)]
                rows[...] = x[: len(rows)]  # the last batch goes on into the next epoch
    for pair in arrays.values():
        for array in pair:
            array.flush()
    return {
        "slots": slots,
        "keys": sorted(needed),
        "data": teacher_cache.data_of(config, stream, records),
    }


def _batches(config, name, stream, keys, epochs, top, about) -> Iterator[dict[str, Any]]:
    """For every batch: start, slots, records, and per key the best (ids, logits)."""
    config = {**config, "streams": {stream: {**config["streams"][stream], "cycle": 0}}}
    config["teachers"] = {name: {**config["teachers"][name], "streams": [stream]}}
    tokenizer = assembly.tokenizer(config)
    streams = assembly.streams(config, tokenizer)
    loader = streams.loaders[stream]
    mesh = sharding.make_mesh(**config["mesh"])
    made = teachers.build(config["teachers"], saved.modules_of(config))
    transform, params = teachers.make_transform(made), None

    @jax.jit
    def best(params, batches):
        found = transform(params, batches)[stream]["teacher"][name]
        return {key: teacher_cache.best(found[key], top) for key in keys}

    slots = epochs * loader.records
    for start in tqdm.trange(0, slots, loader.slots, desc=f"{name} on {stream}", unit=" batches"):
        batches = sharding.global_batches(mesh, next(streams))
        if params is None:
            words = tokenizer.vocab_size
            rules = config["rules"]["sharding"]
            params = teachers.load_params(
                config["teachers"], made, batches, mesh, rules, words=words
            )
            shapes = jax.eval_shape(lambda p, b: transform(p, b), params, batches)
            taught = shapes[stream]["teacher"][name]
            about["keys"].update({key: taught[key].shape[-1] for key in keys})
        pairs = jax.device_get(best(params, batches))
        yield {"start": start, "slots": slots, "records": loader.records, **pairs}
    streams.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="FILE.py or FILE.py:ARGUMENT of a run")
    parser.add_argument("--workdir", default="runs/cache", help="of that run, for its teachers")
    parser.add_argument("--teacher", required=True, help="its name in the config")
    parser.add_argument("--to", required=True, help="the new folder")
    parser.add_argument("--epochs", type=int, default=1, help="of the streams that it sees")
    parser.add_argument("--top", type=int, default=64, help="logits kept per image or word")
    return parser


if __name__ == "__main__":
    sys.exit(run())
