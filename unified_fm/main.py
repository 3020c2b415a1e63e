"""The command: `python -m unified_fm.main --config=configs/quickstart.py --workdir=runs/first`.

Reads flags and the config, refuses what cannot work before any device is touched, then trains or
evaluates. The only module that calls `jax.distributed`.
"""

import contextlib
import faulthandler
import functools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import jax
from absl import flags
from etils import epath
from jax._src import clusters

from unified_fm import buckets, choices
from unified_fm.config import file as config_file
from unified_fm.config import help
from unified_fm.config.settings import Settings
from unified_fm.runtime import (
    compiler,
    errors,
    huge_pages,
    link,
    processes,
    profile,
    roll_call,
    surroundings,
    workdir,
)
from unified_fm.runtime.interruption import Interrupted, Interruption
from unified_fm.teachers import runs as teacher_runs

_log = logging.getLogger("unified_fm")


class Refused(Exception):
    """The command line or the config cannot work; the text says why."""


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Args:
        argv: the command line, the program's name first.

    Returns:
        The exit code: 0, 1 (failed, or the last steps could not be saved), 2 (refused before any
        work), 130 or 143 (stopped by a signal).
    """
    with Interruption() as stop:
        return _main(argv, stop)


def run(argv: Sequence[str]) -> NoReturn:
    """Runs the command and ends the process, also where one of its threads would keep it."""
    with contextlib.suppress(OSError, RuntimeError):  # standard error may be no file: a notebook's
        faulthandler.enable()  # a decoder that crashes says where, in the stacks of all threads
    with Interruption() as stop:
        stop.leave(_main(argv, stop))


def _main(argv: Sequence[str], stop: Interruption) -> int:
    """`main` under an entered `Interruption`: a signal ends the command in every phase."""
    _start_logging()
    if {"--help", "-help", "-h"} & {*argv[1:]}:
        print(help_text())
        return 0
    folder = None
    try:
        with stop.leavable():
            options, settings = parse(argv)
            _use_flags(settings)
            folder = _folder(options.workdir)
            stop.grace_s = options.grace_s
            place = _place(options)
            flags.FLAGS(list(argv[:1]))  # grain asks whether the command line has been parsed
            prepare_data(settings)
            compiler.keep_programs()
            _give_threads()
            stop.link = _join_other_processes(place, options.start_timeout, settings, stop)
        return _run(options, settings, stop)
    except (Refused, processes.Refused) as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return 2
    except Interrupted:
        _log.info("stopped before the first step: nothing to save")
        return stop.exit_code
    except (workdir.Locked, workdir.LockLost, surroundings.Unusable) as error:
        _log.error("%s", error)  # nothing is written into the workdir of another
        stop.tell(error)
        return 1
    except Exception as error:
        if stop.link is not None and isinstance(error, jax.errors.JaxRuntimeError):
            stop.link.settle()  # mostly it is the loss of another process, which ends this one
        _tell(error, folder)
        stop.tell(error)
        return 1


def _folder(path: str) -> epath.Path:
    """The workdir. Raises Refused: checkpoints cannot be written there."""
    try:
        workdir.absolute(path)
        buckets.check(path)
    except (ValueError, ModuleNotFoundError) as error:
        raise Refused(str(error)) from error
    return epath.Path(path)


def _tell(error: Exception, folder: epath.Path | None) -> None:
    """Says what went wrong in a line, and where the rest is; without a workdir, here."""
    _log.error("%s: %s", type(error).__name__, error)
    if folder is None:
        _log.error("%s", errors.text(error))
        return
    try:
        path = errors.write(folder, error, process=jax.process_index())
        _log.error("where it happened: %s", path)
    except Exception as problem:
        _log.error("%s\n(error.txt could not be written: %s)", errors.text(error), problem)


def parse(argv: Sequence[str]) -> tuple[flags.FlagValues, Settings]:
    """Reads the flags and makes the complete, checked settings.

    Raises:
        Refused: an unknown flag or key, a wrong type, or settings that cannot work.
    """
    texts = [arg for arg in argv[1:] if arg.startswith(("--config.", "-config."))]
    others = [arg for arg in argv[1:] if arg not in texts]
    bare = [arg for arg in texts if "=" not in arg]
    if bare:
        raise Refused(f"write {bare[0]}=VALUE, with an equals sign")
    options = _flags()
    try:
        rest: Sequence[str] = options([argv[0], *others])
    except flags.Error as error:
        raise Refused(_flag_message(error, options)) from None
    if len(rest) > 1:
        raise Refused(f"{rest[1]!r} is no flag; flags start with --")
    if options.run is not None:
        if options.config is not None or options.workdir is not None:
            raise Refused("--run=RUN is the workdir, with the config that the run has saved there")
        options.workdir = options.run
    for name in ("config", "workdir"):
        if options[name].value is None and options.run is None:
            raise Refused(f"--{name}=... is missing")
    try:
        profile.steps(options.profile or "1")
    except ValueError as error:
        raise Refused(str(error)) from None
    settings = _configured(options, texts)
    if options.run is not None and settings.mode != "evaluate":
        raise Refused("--run=RUN is for unified-fm evaluate; to go on training, give --config")
    if options.profile and settings.mode == "evaluate":
        raise Refused(
            f"--profile={options.profile}: steps of training are traced, and mode=evaluate makes "
            "none; leave it out"
        )
    return options, settings


def _flags() -> flags.FlagValues:
    """The flags, not yet read; not absl's own, which belong to whoever imports this."""
    made = flags.FlagValues()
    text = functools.partial(flags.DEFINE_string, flag_values=made)
    switch = functools.partial(flags.DEFINE_bool, flag_values=made)
    text("config", None, "FILE.py, or the name of a config of the library; :ARGUMENT behind it")
    text("workdir", None, "where checkpoints and metrics go, seen by all workers")
    text("run", None, "to evaluate: a workdir, whose own config counts")
    text("source", None, "with --run: a source for the evaluator --as, or that chose the best step")
    text("as", "given", "with --source: an evaluator (retrieval), or a name for what is measured")
    flags.DEFINE_list(
        "plugins", [], "modules whose plugins a saved config may name", flag_values=made
    )
    switch("force", False, "take over a locked workdir")
    switch("distributed", None, "several processes; found out if not given")
    text("coordinator", None, "HOST:PORT of process 0, with --process=I/N")
    text("process", None, "I/N: this is process I of N")
    text("profile", None, "A-B: write a trace of these steps into WORKDIR/profile")
    flags.DEFINE_integer(
        "start_timeout", 300, "seconds to wait for the other processes", flag_values=made
    )
    flags.DEFINE_float(
        "grace_s", 30, "seconds from SIGTERM to the end", lower_bound=1, flag_values=made
    )
    return made


def help_text() -> str:
    """What `--help` prints: flags, keys with their defaults, how to override."""
    made = _flags()
    return help.text({name: (made[name].default, str(made[name].help)) for name in made})


def _flag_message(error: Exception, options: flags.FlagValues) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"unknown flag --{error.flagname}; {choices.possible(error.flagname, list(options))}"
    return str(error)


def _configured(options: flags.FlagValues, texts: Sequence[str]) -> Settings:
    """The checked settings of the command line.

    Raises:
        Refused: see `parse`.
    """
    changes = [text.lstrip("-").removeprefix("config.") for text in texts]
    try:
        if options.run is None:
            return config_file.load(options.config, changes, plugins=options.plugins)
        other = None if options.source is None else (str(options["as"].value), options.source)
        return config_file.of_run(options.run, changes, plugins=options.plugins, other=other)
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from error


def prepare_data(settings: Settings) -> None:
    """Makes the demo corpus, as far as these settings ask for it and it is not there."""
    runs = (settings, *settings.own_runs().values())
    for wanted in dict.fromkeys(run.prepare for run in runs if run.prepare):
        from unified_fm.demo import corpus

        named = wanted.partition(":")[2]
        parts = named.split(",") if named else corpus.QUICKSTART
        print(corpus.table(corpus.prepare(parts=parts)), file=sys.stderr, flush=True)


def _use_flags(settings: Settings) -> None:
    try:
        compiler.use(settings.xla)
    except ValueError as error:
        raise Refused(str(error)) from error


def _give_threads() -> None:
    """Gives simulated devices enough threads that each can wait for the others.

    A device holds one for every collective in which it waits, and XLA has about as many as the host
    has cores: with few, all of them wait for ever, and XLA ends the process after 40 s.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("NPROC", "128")  # read by XLA when it makes the devices


def _join_other_processes(
    place: processes.Place | None, timeout: int, settings: Settings, stop: Interruption
) -> link.Link | None:
    """Waits for the processes of a pod or cluster and compares them, if there is more than one.

    Raises:
        processes.Refused: one is missing or differs.
    """
    if place is None or place.count == 1:
        return None
    _log.info("waiting for the other processes (start this on all %d workers)", place.count)
    wires = roll_call.hold(place, processes.facts(settings.plain()), timeout=timeout)
    others = link.Link(place, wires, end=stop.end, show=stop.show_stacks, on_stop=stop.stopping)
    on_term = signal.getsignal(signal.SIGTERM)
    jax.distributed.initialize(
        place.address, place.count, place.index, initialization_timeout=timeout
    )
    signal.signal(signal.SIGTERM, on_term)  # JAX took it; here the link tells the others
    return others


def _place(options: flags.FlagValues) -> processes.Place | None:
    """Which process this is, by the flags or by what JAX finds in the environment.

    Raises:
        processes.Refused: flags that cannot be, or an environment that does not say it.
    """
    if options.coordinator or options.process:
        return processes.place(options.coordinator, options.process)
    if not (processes.in_cluster() if options.distributed is None else options.distributed):
        return None
    # JAX has no public name for this, which `jax.distributed.initialize` does first of all.
    try:
        address, count, index, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, options.start_timeout
        )
        found = f"coordinator {address}, number of processes {count}, index {index}"
    except Exception as error:  # whatever a variable of another form makes of it
        address, count, index, found = None, None, None, repr(error)
    if address is None or count is None or index is None:
        raise processes.Refused(
            f"the environment names several processes, but not which of them this is (found: "
            f"{found}). Under SLURM, start it with srun; elsewhere give each process "
            f"--coordinator=HOST:PORT and --process=I/N; --nodistributed runs this one alone"
        )
    return processes.placed(address, index=index, count=count)


def _run(options: flags.FlagValues, settings: Settings, stop: Interruption) -> int:
    from unified_fm import train

    folder = epath.Path(options.workdir)
    surroundings.check(folder)
    stop.folder = str(folder)
    with contextlib.ExitStack() as stack:
        held = None
        if jax.process_index() == 0:
            held = stack.enter_context(workdir.lock(folder, force=options.force))
            stop.last_words.append(held.release)
        traced = profile.steps(options.profile) if options.profile else None
        fit = functools.partial(train.train, lock=held)
        ready = teacher_runs.train(settings, folder, stop, fit)
        if ready is None:  # a signal came while teachers were trained
            return stop.exit_code
        if ready.mode == "evaluate":
            train.evaluate(ready, folder, stop)
        else:
            fit(ready, folder, stop, profile=traced)
    return stop.exit_code


def _start_logging() -> None:
    """Our lines plain on standard error; warnings of others stay as they are."""
    if not _log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)
        _log.propagate = False


if __name__ == "__main__":
    huge_pages.restart()
    run(sys.argv)
