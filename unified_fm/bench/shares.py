"""What the time for an example is spent on: a clock around each part, in one thread."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import simplejpeg

from unified_fm.data import images, jpeg, masking, randaugment, tokenizer
from unified_fm.data.loader import Loader
from unified_fm.data.pipelines import base

_WARM = 20  # examples before the clocks run


def spent(loaders: Mapping[str, Loader], examples: int) -> list[str]:
    """For each stream the milliseconds of an example and their shares, as lines to print."""
    lines = []
    for name, loader in loaders.items():
        spent: defaultdict[str, float] = defaultdict(float)
        with _clocks(loader, spent):
            for slot in range(_WARM):
                loader.example(slot)
            spent.clear()
            started = time.thread_time()
            for slot in range(_WARM, _WARM + examples):
                loader.example(slot)
            whole = time.thread_time() - started
        spent["other"] = whole - sum(spent.values())
        longest = sorted(spent.items(), key=lambda each: -each[1])
        shares = ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in longest)
        lines.append(f"where         {name}: {1e3 * whole / examples:.2f} ms an example: {shares}")
    return lines


@contextlib.contextmanager
def _clocks(loader: Loader, spent: defaultdict[str, float]) -> Iterator[None]:
    """Puts a clock around the parts; the time of one inside another is the inner one's alone."""
    running: list[float] = []  # for each part that runs, the seconds of those inside it

    def clocked(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            running.append(0.0)
            started = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                seconds = time.thread_time() - started
                spent[part] += seconds - running.pop()
                if running:
                    running[-1] += seconds

        return timed

    with contextlib.ExitStack() as held:
        for owner, name, part in _parts(loader):
            was = getattr(owner, name)
            held.callback(setattr, owner, name, was)
            setattr(owner, name, clocked(part, was))
        tables = masking.PATCH_MASKS
        held.callback(tables.update, dict(tables))
        for name, make in dict(tables).items():
            tables[name] = clocked("masks", make)
        yield


def _parts(loader: Loader) -> list[tuple[Any, str, str]]:
    """(owner, name of the function, what it is for)."""
    return [
        (type(loader.source), "__getitem__", "reading"),
        (jpeg, "read_header", "header"),
        (simplejpeg, "decode_jpeg", "decoding"),
        (images, "_to_rgb", "decoding"),
        (images, "resize", "resizing"),
        (images, "random_crop_box", "crop"),
        (base, "randaugment", "augmenting"),
        (randaugment, "_warp", "warping"),
        (masking.TokenMasker, "__call__", "masks"),
        (tokenizer.Tokenizer, "encode", "tokenizer"),
    ]
