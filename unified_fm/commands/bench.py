"""Measures a config on this machine: its step and the parts of it, beside a matrix product.

    unified-fm bench step --config=quickstart
    unified-fm bench step --config=ufm_base:smoke --config.teachers={} --compare=merge.name=sum
    unified-fm bench step --config=xfm_base:chips=1 --synthetic
    unified-fm bench WHAT --help

All numbers are of one run, and on a shared machine only their ratios mean anything.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from unified_fm.bench import (
    against,
    attention,
    compiling,
    layer,
    loader,
    machine,
    merge,
    products,
    step,
    trace,
)
from unified_fm.commands import _settings
from unified_fm.config.settings import Settings

_STEP = """The training step: samples per second, and how near to a matrix product it comes.

Where the config's sources or its tokenizer are not there, batches are drawn from their shapes.

    texts         tokens of the batches that are not padding
    mfu_model     of the product's rate, beside PyTorch of the better of both, what the necessary
                  FLOPs make up: each image's keys and values projected once, nothing padded
    mfu_official  the same with the FLOPs that the published program needs for these samples
    executed      the same with the products of the step as it is traced: padding and
                  rematerialisation included, loops counted as often as they run
    bytes         that the compiled program reads and writes, loops counted as often as they run
    temporary     what XLA needs beside the arguments and the results of a step
    alone         its products, each by itself at its own shape: what could not be saved if all else
                  were free (--products)
    compare       the same step with one other setting, alternating with it
    against       the published program's structure in plain PyTorch (a pass for each stream and
                  view, keys and values projected for every row of every pass, three updates a
                  step), on the same batches and device, in a process of its own, alternating;
                  with --torch-first all of its steps come before ours is compiled
"""
_CLOSING = """

At the end stand, of this run:

    product       the largest rate of a few matrix products
    memory        the most that was in use until then; on a CPU by the whole process
"""
_PARTS = """

Columns: median milliseconds; FLOPs of the matrix products as traced; their share of the machine's
own matrix product; bytes that the compiled program reads and writes, loops counted as often as
they run, and those it needs beside arguments and results; seconds of tracing and compiling.
"""
_LAYER = """One layer of each encoder, forward and backward, as it is and with each remat.

Its rows are those of the largest batch of a stream; pre-LN encoders have their last norm with it.
"""
_ATTENTION = """Attention alone, forward and backward: every implementation that runs here.

Images with and without their position biases; nothing is dropped."""
_MERGE = """Each merge's update, on random gradients as large as the model."""
_LOADER = """The streams alone: batches per second, samples per CPU-second, bytes.

First as the config says, then with 1, 2, ... threads in this process, then with so many processes
(the time of all of them counts).

    of decode-only  pictures per CPU-second, as a share of simplejpeg's own rate, measured before
                    each line on the same pictures in one thread
    where           what the time for an example of a stream is spent on, in one thread
"""
_COMPILE = """Tracing and compiling the step, for each layer_loop and remat; nothing is run.

moved is what the program would read and write, loops counted as often as they run, temp what it
needs beside arguments and results, on one device. With a compilation cache
(JAX_COMPILATION_CACHE_DIR) the seconds are those of reading it."""


class _Kind(NamedTuple):
    about: str
    add: Callable[[argparse.ArgumentParser], Any]
    measure: Callable[[Settings, argparse.Namespace, Settings | None], list[str]]


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line, measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, kind in _KINDS.items():
        about = kind.about.rstrip() + _CLOSING
        made = kinds.add_parser(name, help=about.splitlines()[0], description=about)
        _settings.add(made)
        made.set_defaults(compare=None)
        kind.add(made)
    options, changes = _settings.parse(parser, arguments)
    settings = _settings.load(parser, options, changes)
    other = None
    if options.compare:
        if options.compare.startswith("xla="):
            parser.error(
                "--compare=xla=...: flags belong to a process; run it again with --config.xla"
            )
        other = _settings.load(parser, options, [*changes, options.compare])
    try:
        print("\n".join(_KINDS[options.what].measure(settings, options, other)), flush=True)
        print("\n".join(machine.closing(step.dtype(settings))))
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


def _add_steps(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument("--steps", type=int, default=default, help="to take the median of")


def _add_step(parser: argparse.ArgumentParser) -> None:
    _add_steps(parser, 20)
    parser.add_argument("--synthetic", action="store_true", help="draw the batches in any case")
    parser.add_argument("--compare", metavar="KEY=VALUE", help="of the config, for another step")
    parser.add_argument(
        "--trace", metavar="DIR", help="of three more steps, and what takes longest"
    )
    parser.add_argument("--products", action="store_true", help="each by itself")
    parser.add_argument("--against", choices=["torch"], help="beside ours, a step of another")
    parser.add_argument("--torch-compile", action="store_true", help="its layers, one by one")
    parser.add_argument("--torch-fused", action="store_true", help="AdamW as one kernel")
    parser.add_argument("--torch-attention", choices=["eager", "sdpa"], help="sdpa on a GPU")
    parser.add_argument(
        "--torch-first",
        action="store_true",
        help="end it before ours is compiled: where memory does not hold both",
    )


def _step(settings: Settings, options: argparse.Namespace, other: Settings | None) -> list[str]:
    if options.against:
        # Else JAX takes most of a GPU's memory at once, and PyTorch finds none.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    ready, batches, made = step.prepared(settings, made_up=options.synthetic)
    with contextlib.ExitStack() as held:
        theirs = None
        if options.against:
            torch = against.Options.chosen(
                options.torch_attention, compiled=options.torch_compile, fused=options.torch_fused
            )
            started = against.published(settings, batches, torch)
            theirs = against.Turns(held.enter_context(started), options.steps)
            theirs.begin(alone=options.torch_first)
        own = step.compiled(ready, batches, made)
        runs = {"step": own.run}
        if other is not None:
            runs["compare"] = step.compiled(step.again(other, ready), batches).run
        if theirs is not None:
            runs["torch"] = theirs.run
        seconds = machine.alternated(runs, options.steps)
        rates = {"XLA's": machine.product_rate(step.dtype(settings))}
        if theirs is not None:
            rates["PyTorch's"] = theirs.product_rate()
        whose, rate = max(rates.items(), key=lambda item: item[1])
        lines = step.report(own, seconds["step"], rate, whose)
        if other is not None:
            ratio = seconds["compare"] / seconds["step"]
            lines.append(f"compare       {options.compare}: {ratio:.2f} x the step")
        if options.products:
            lines += products.alone(own.products, seconds["step"], rate)
        if options.trace:
            lines += trace.recorded(own.run, options.trace)
        if theirs is not None:
            lines += theirs.report(seconds["step"], settings)
    return lines


def _add_loader(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", type=int, default=10, help="to load each time")
    parser.add_argument(
        "--workers", default=",".join(map(str, loader.WORKERS)), help="numbers of them to try"
    )
    parser.add_argument("--streams", default="", help="names of those to load; all")
    parser.add_argument(
        "--made-up", action="store_true", help="photographs that are drawn, in place of the sources"
    )


def _loader(settings: Settings, options: argparse.Namespace, other: Settings | None) -> list[str]:
    del other
    return loader.report(
        settings,
        options.batches,
        workers=[int(number) for number in options.workers.split(",") if number],
        only=[name for name in options.streams.split(",") if name],
        made_up=options.made_up,
    )


def _parts(report: Callable[[Settings, int], list[str]], steps: int) -> dict[str, Any]:
    return {
        "add": lambda parser: _add_steps(parser, steps),
        "measure": lambda settings, options, other: report(settings, options.steps),
    }


_KINDS = {
    "step": _Kind(_STEP, _add_step, _step),
    "layer": _Kind(_LAYER + _PARTS, **_parts(layer.report, 5)),
    "attention": _Kind(_ATTENTION + _PARTS, **_parts(attention.report, 5)),
    "merge": _Kind(_MERGE + _PARTS, **_parts(merge.report, 5)),
    "compile": _Kind(
        _COMPILE,
        lambda parser: None,
        lambda settings, options, other: compiling.report(settings),
    ),
    "loader": _Kind(_LOADER, _add_loader, _loader),
}
