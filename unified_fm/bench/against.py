"""The published program in PyTorch, beside ours: same batches, same losses, same device.

It runs in a process of its own, so that its memory and its threads are its own. Here is what ours
must be to be compared with it, and the other end of the pipe.
"""

import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from unified_fm.bench import flops
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.config.weights import scheduled
from unified_fm.models import xfm
from unified_fm.models.config import EncoderConfig

LOSSES = ("mlm", "mim", "itc", "itm", "imlm", "bbox")
INSTALL = "pip install torch==2.13.0"
_STACK = ("layers", "width", "heads", "mlp_width", "eps")
_STACK += ("dropout", "attention_dropout", "drop_path")
# What the published encoders are beside their numbers.
_TEXT = {"norm": "post", "gelu": "erf", "layer_scale": None, "relative_position_bias": False}
_TEXT |= {"query_bias": True, "key_bias": True, "value_bias": True}
_VISION = {"norm": "pre", "gelu": "erf", "layer_scale": 0.1, "relative_position_bias": True}
_VISION |= {"query_bias": True, "key_bias": False, "value_bias": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How the program in PyTorch runs.

    Attributes:
        compiled: its layers through `torch.compile`.
        fused: AdamW as one kernel.
        attention: "eager" or "sdpa".
    """

    compiled: bool = False
    fused: bool = False
    attention: str = "eager"

    @classmethod
    def chosen(cls, attention: str | None, **options: bool) -> "Options":
        """With the attention that is usual on the device, where none is asked for."""
        usual = "eager" if jax.default_backend() == "cpu" else "sdpa"
        return cls(attention=attention or usual, **options)


class Ended(ValueError):
    """The program in PyTorch has ended by itself, out of memory for example."""


class Published:
    """The other end: makes a step of the program when asked.

    Attributes:
        options: how it runs.
    """

    def __init__(self, process: subprocess.Popen, options: Options):
        self.options = options
        self._process = process
        self._seen: dict[str, float] | None = None

    def run(self) -> float:
        """Makes one step; returns its seconds.

        Raises:
            Ended: it has ended.
        """
        return self._asked("step")["seconds"]

    def run_alone(self, steps: int) -> float:
        """Makes so many steps after a first one, and ends; returns their median seconds.

        Raises:
            Ended: it has ended before.
        """
        self.run()
        seconds = statistics.median(self.run() for _ in range(steps))
        self.numbers()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None
        self._process.wait()
        return seconds

    def report(self, seconds: float, ours: float, settings: Settings) -> list[str]:
        """The lines about the program, which takes so many seconds where ours takes `ours`."""
        samples, seen = settings.samples_per_step, self.numbers()
        official = flops.total(flops.of_step(settings)).official
        how = "compiled layers" if self.options.compiled else "eager"
        how += f", {self.options.attention} attention"
        how += ", fused AdamW" if self.options.fused else ""
        how += ", before ours" if self._process.stdin is None else ", in turn with ours"
        share = official / seconds / seen["rate"]
        return [
            f"torch         {seconds * 1e3:.1f} ms, {samples / seconds:.2f} samples/s ({how})",
            f"  product     {seen['rate'] / 1e12:.3f} TFLOP/s, its own matrix product",
            f"  executed    {share:.1%}: {official / 1e9:.2f} GFLOP as published",
            f"  memory      {seen['bytes'] / 1e9:.2f} GB at most, of its process or device",
            f"against       {seconds / ours:.2f} x the samples per second of torch",
        ]

    def numbers(self) -> dict[str, float]:
        """`bytes`, the most it had in use, and `rate`, FLOP/s of its matrix product; asked once."""
        if self._seen is None:
            # Memory first: the product needs some of its own.
            self._seen = self._asked("memory") | self._asked("product")
        return self._seen

    def _asked(self, what: str) -> dict[str, Any]:
        asks, answers = self._process.stdin, self._process.stdout
        assert asks is not None and answers is not None
        with contextlib.suppress(BrokenPipeError):  # it says itself why it ended
            print(json.dumps({"do": what}), file=asks, flush=True)
        line = answers.readline()
        if not line:
            raise Ended(
                "the program in PyTorch has ended with status "
                f"{self._process.wait()}; what it said stands above"
            )
        return json.loads(line)


class Turns:
    """Its steps beside ours. If it ends by itself, ours is measured all the same."""

    def __init__(self, published: Published, steps: int):
        self._published, self._steps = published, steps
        self._seconds: list[float] = []
        self._ended: Ended | None = None
        self._alone = False

    def begin(self, *, alone: bool) -> None:
        """Makes a first step, which is not counted; `alone`, also all others."""
        with self._noted():
            if alone:
                self._alone, self._seconds = True, [self._published.run_alone(self._steps)]
            else:
                self._published.run()

    def run(self) -> float:
        """Makes one step, unless all are made; returns its seconds."""
        if self._ended is None and not self._alone:
            with self._noted():
                self._seconds.append(self._published.run())
        return self._seconds[-1] if self._seconds else 0.0

    def product_rate(self) -> float:
        """FLOP/s of its matrix products; 0 if it has ended."""
        if self._ended is None:
            with self._noted():
                return self._published.numbers()["rate"]
        return 0.0

    def report(self, ours: float, settings: Settings) -> list[str]:
        """The lines about it, where a step of ours takes so many seconds."""
        if self._ended is None:
            with self._noted():
                return self._published.report(statistics.median(self._seconds), ours, settings)
        return [f"torch         not measured: {self._ended}"]

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Ended as error:
            self._ended = error


@contextlib.contextmanager
def published(
    settings: Settings, batches: Mapping[str, Mapping[str, Any]], options: Options
) -> Iterator[Published]:
    """Starts the program on batches of ours, and ends it.

    Raises:
        ValueError: PyTorch is not installed, or the config is not of the published program's kind.
    """
    if importlib.util.find_spec("torch") is None:
        raise ValueError(f"--against=torch needs PyTorch: {INSTALL} (the CPU build does)")
    given = description(settings, options)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = pathlib.Path(folder)
        (path / "program.json").write_text(json.dumps(given))
        arrays: dict[str, Any] = {
            f"{stream}/{name}": np.asarray(array)
            for stream, batch in batches.items()
            for name, array in batch.items()
            if not isinstance(array, Mapping)
        }
        np.savez(path / "batches.npz", allow_pickle=False, **arrays)
        command = [sys.executable, "-m", "unified_fm.bench.published.worker", folder]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield Published(process, options)
            finally:
                if process.stdin is not None:
                    process.stdin.close()


def description(settings: Settings, options: Options) -> dict[str, Any]:
    """What the program is to be, as JSON has it.

    Raises:
        ValueError: a model, losses or groups that the published program does not have.
    """
    device = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if device != "cpu" and (device != "cuda" or jax.device_count() > 1):
        raise ValueError(
            "the program in PyTorch runs on a CPU or one GPU, found "
            f"{jax.device_count()} x {device}"
        )
    half = settings.model.get("dtype", "float32") == "bfloat16"
    optimizer = settings.optimizer
    warmup = optimizer.schedule.warmup
    return {
        "device": device,
        "seed": settings.seed,
        "sizes": sizes(settings, options.attention),
        "training": {
            "streams": _streams(settings),
            **{name: vars(optimizer)[name] for name in ("lr", "b1", "b2", "eps", "weight_decay")},
            "clip": optimizer.clip,
            "warmup": warmup if isinstance(warmup, int) else 1,
            "half": half,
            "fused": options.fused,
            "compiled": options.compiled,
        },
    }


def sizes(settings: Settings, attention: str = "eager") -> dict[str, Any]:
    """The numbers of the published program's model, from a config of ours.

    Raises:
        ValueError: the model is of another kind.
    """
    model = chosen.model(settings.model)
    if not isinstance(model, xfm.Model):
        raise ValueError("the published program is X-FM's: config.model.name must be 'xfm'")
    text, vision = model.towers().values()
    fusion = model.stack(model.fusion, xfm.FUSION)
    for place, stack, expected in (
        ("text", text, _TEXT),
        ("vision", vision, _VISION),
        ("fusion", fusion, _TEXT),
    ):
        _check(f"config.model.{place}", vars(stack), expected)
    fixed = {"class_token": True, "absolute_positions": False, "token_types": 1}
    fixed |= {"position_offset": "roberta", "mean": xfm.Model.mean, "std": xfm.Model.std}
    _check("config.model", {name: getattr(model, name) for name in fixed}, fixed)
    names = ("vocab_size", "max_positions", "pad_id", "image_size", "patch_size", "projection_dim")
    stacks = {"text": text, "vision": vision, "fusion": fusion}
    return {
        **{name: getattr(model, name) for name in names},
        **{name: _stack(stack, attention) for name, stack in stacks.items()},
    }


def _streams(settings: Settings) -> dict[str, dict[str, float]]:
    if changing := scheduled(settings):
        raise ValueError(
            f"the published program has constant weights, config.{changing[0].place} changes "
            "over the run; possible: a number"
        )
    found = {}
    for name, stream in settings.streams.items():
        if (stream.groups or 1) > 1:
            raise ValueError(
                f"the published program draws negatives from all rows of a device: "
                f"config.streams.{name}.groups is {stream.groups}, it must be 1"
            )
        weights = {key: chosen.objective(key, value)[1] for key, value in stream.objectives.items()}
        unknown = sorted(set(weights) - set(LOSSES))
        if unknown:
            raise ValueError(
                f"the published program has no loss {', '.join(unknown)} (config.streams.{name}); "
                f"it has {', '.join(LOSSES)}"
            )
        found[name] = weights
    return found


def _stack(stack: EncoderConfig, attention: str) -> dict[str, Any]:
    return {**{name: vars(stack)[name] for name in _STACK}, "attention": attention}


def _check(place: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        if found[name] != value:
            raise ValueError(
                f"{place}.{name} is {found[name]!r}; the published program has {value!r}"
            )
