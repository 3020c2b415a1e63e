"""Writes once what a teacher says, so that runs need not ask it again.

    unified-fm cache --config=ufm_base --workdir=runs/ufm --teacher=vit --to=data/i21k.vit

Then `c.teachers.vit = dict(cache="data/i21k.vit", streams=["image"])`, with `cycle=1` in the
stream if the run is longer than that epoch (`--epochs`). The rows belong to the images and masked
words that a run of this config, this seed included, sees (`unified_fm/teachers/cache.py`). Of
classes or words beyond the best it keeps what they have together, for the divergences and
temperatures of the config's `distill`; a run that asks for others needs a cache of its own.
"""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import tqdm
from etils import epath

from unified_fm import choices, setup, train
from unified_fm.commands import _settings
from unified_fm.config.settings import Settings
from unified_fm.runtime.interruption import Interruption
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers import runs
from unified_fm.teachers.cache_writer import Writer, used_of


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line and writes the cache; returns the exit status."""
    parser = _settings.parser(prog, __doc__)
    parser.add_argument("--workdir", default="runs/cache", help="of that run, for its teachers")
    parser.add_argument("--teacher", required=True, help="its name in the config")
    parser.add_argument("--to", required=True, help="the new folder")
    parser.add_argument("--epochs", type=int, default=1, help="of the streams that it sees")
    parser.add_argument("--top", type=int, default=64, help="logits kept per image or word")
    options, changes = _settings.parse(parser, arguments)
    try:
        config = _of_one(_settings.load(parser, options, changes), options.teacher)
        with Interruption() as stop:
            config = runs.train(config, epath.Path(options.workdir), stop, train.train)
        if config is None:  # a signal came
            return 130
        size = write(config, options.teacher, options.to, epochs=options.epochs, top=options.top)
    except (ValueError, TypeError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.to}, {size / 2**20:,.1f} MiB")
    return 0


def write(config: Settings, name: str, to: Any, *, epochs: int, top: int) -> int:
    """Writes the cache of one teacher, whole or not at all; returns its size in bytes.

    It holds so many epochs of every stream that the teacher sees, and the `top` logits.

    Raises:
        ValueError: no such teacher, a folder that exists, objectives that a cache cannot serve, or
            a teacher that does not fit.
    """
    config = _of_one(config, name)
    writer = Writer(to)
    for stream in config.teachers[name].streams or ():
        _write_stream(config, name, stream, writer, epochs, top)
    return writer.finish(config.teachers[name].plain())


def _of_one(config: Settings, name: str) -> Settings:
    """The config with this teacher only, and no cache of it."""
    if name not in config.teachers:
        raise ValueError(f"no teacher {name!r}; {choices.possible(name, config.teachers)}")
    return config.replace(teachers={name: config.teachers[name].replace(cache=None)})


def _write_stream(config, name, stream, writer, epochs, top) -> None:
    needs = teacher_cache.keys_needed(config, name, stream)
    unfit = sorted(set(needs) - {"image", "mlm", "mlm_all"})
    if unfit or not needs:
        raise ValueError(
            f"stream {stream!r} has no objective 'distill' on logits of the teacher {name!r}"
            + (f": a cache holds logits, and {unfit[0]} are states" if unfit else "")
        )
    alone = config.replace(
        streams={stream: config.streams[stream].replace(cycle=0)},
        teachers={name: config.teachers[name].replace(streams=[stream])},
    )
    ready = setup.prepare(alone)
    streams, transform, params = ready.open_streams(), ready.program.teachers, ready.load_teachers()
    loader = streams.loaders[stream]
    shapes = jax.eval_shape(lambda p, b: transform(p, b), ready.teacher_shapes, ready.shapes)
    classes = {key: shapes[stream]["teacher"][name][key].shape[-1] for key in needs}
    for key, of_key in needs.items():
        where = f"a cache with --top={top}"
        teacher_cache.check_kinds(where, of_key, min(top, classes[key]), classes[key])

    @jax.jit
    def best(params, batches):
        batch = transform(params, batches)[stream]
        said = {key: batch["teacher"][name][key] for key in needs}
        return {
            key: (
                teacher_cache.best(x, top, teacher_cache.lumps_of(needs[key])),
                used_of(batch, key, len(x)),
            )
            for key, x in said.items()
        }

    slots = epochs * loader.records
    data = teacher_cache.data_of(config, stream, loader)
    writer.begin(stream, slots=slots, needs=needs, data=data)
    for start in tqdm.trange(0, slots, loader.slots, desc=f"{name} on {stream}", unit=" batches"):
        found = jax.device_get(best(params, ready.place(next(streams))))
        for key, (rows, used) in found.items():
            writer.add(stream, key, start, rows, used=used, classes=classes[key])
    streams.close()
