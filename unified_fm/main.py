"""The command: `python -m unified_fm.main --config=configs/quickstart.py --workdir=runs/first`.

Reads flags and the config, refuses what cannot work before any device is touched, then trains or
evaluates. The only module that calls `jax.distributed`.
"""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from etils import epath

from unified_fm import plugins
from unified_fm.config import file as config_file
from unified_fm.config import overrides, settings
from unified_fm.runtime import errors, surroundings, workdir
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


def _main(argv: Sequence[str], stop: Interruption) -> int:
    """`main` under an entered `Interruption`: a signal ends the command in every phase."""
    _start_logging()
    try:
        with stop.leavable():
            options, config = parse(argv)
            folder = epath.Path(options.workdir)
            stop.grace_s = options.grace_s
            flags.FLAGS(list(argv[:1]))  # grain asks whether the command line has been parsed
            _prepare_data(config)
            _cache_compilations()
            _join_other_processes(options)
            stop.processes = jax.process_count()
        return _run(options, config, stop)
    except Refused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return 2
    except Interrupted:
        _log.info("stopped before the first step: nothing to save")
        return stop.exit_code
    except (workdir.Locked, workdir.LockLost, surroundings.Unusable) as error:
        _log.error("%s", error)  # nothing is written into the workdir of another
        return 1
    except Exception as error:
        _tell(error, folder)
        return 1


def _tell(error: Exception, folder: epath.Path) -> None:
    """Says what went wrong in a line, and where the rest is."""
    _log.error("%s: %s", type(error).__name__, error)
    try:
        path = errors.write(folder, error, process=jax.process_index())
        _log.error("where it happened: %s", path)
    except Exception as problem:
        _log.error("%s\n(error.txt could not be written: %s)", errors.text(error), problem)


def parse(argv: Sequence[str]) -> tuple[flags.FlagValues, dict[str, Any]]:
    """Reads the flags and makes the complete, checked config as plain dicts.

    Raises:
        Refused: an unknown flag or key, a wrong type, or settings that cannot work.
    """
    texts = [arg for arg in argv[1:] if arg.startswith(("--config.", "-config."))]
    others = [arg for arg in argv[1:] if arg not in texts]
    bare = [arg for arg in texts if "=" not in arg]
    if bare:
        raise Refused(f"write {bare[0]}=VALUE, with an equals sign")
    options = flags.FlagValues()
    flags.DEFINE_string("config", None, "FILE.py or FILE.py:ARGUMENT", flag_values=options)
    flags.DEFINE_list(
        "plugins", [], "modules whose plugins a saved config may name", flag_values=options
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "where checkpoints and metrics go, seen by all workers",
        flag_values=options,
    )
    flags.DEFINE_bool("force", False, "take over a locked workdir", flag_values=options)
    flags.DEFINE_bool(
        "distributed", None, "several processes; found out if not given", flag_values=options
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, with --process=I/N", flag_values=options
    )
    flags.DEFINE_string("process", None, "I/N: this is process I of N", flag_values=options)
    flags.DEFINE_integer(
        "start_timeout", 300, "seconds to wait for the other processes", flag_values=options
    )
    flags.DEFINE_float(
        "grace_s", 30, "seconds from SIGTERM to the end", lower_bound=1, flag_values=options
    )
    try:
        rest = options([argv[0], *others])
    except flags.Error as error:
        raise Refused(_flag_message(error, options)) from None
    if len(rest) > 1:
        raise Refused(f"{rest[1]!r} is no flag; flags start with --")
    for name in ("config", "workdir"):
        if options[name].value is None:
            raise Refused(f"--{name}=... is missing")
    return options, _configured(options.config, texts, options.plugins)


def _flag_message(error: Exception, options: flags.FlagValues) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"unknown flag --{error.flagname}; {plugins.possible(error.flagname, list(options))}"
    return str(error)


def _configured(spec: str, texts: Sequence[str], modules: Sequence[str]) -> dict[str, Any]:
    """Reads the config file, fills in defaults, applies `--config.a.b=v` and `--plugins`, checks.

    Raises:
        Refused: see `parse`.
    """
    try:
        given = config_file.load(spec)
    except ValueError as error:
        raise Refused(f"--config={spec}: {error}") from error
    changes = [text.lstrip("-").removeprefix("config.").partition("=") for text in texts]
    try:
        config = settings.complete(given)
        config = overrides.apply(config, [(path, value) for path, _, value in changes])
        config = teacher_runs.resolve(settings.complete(config))
        for each in (config, *teacher_runs.configs(config).values()):
            each["plugins"] = [*each["plugins"], *modules]
            settings.check(each)
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from error
    return config


def _prepare_data(config: Mapping[str, Any]) -> None:
    runs = (config, *teacher_runs.configs(config).values())
    for wanted in dict.fromkeys(run["prepare"] for run in runs if run["prepare"]):
        from unified_fm.demo import corpus

        parts = wanted.partition(":")[2]
        options = {"parts": parts.split(",")} if parts else {}
        print(corpus.table(corpus.prepare(**options)), file=sys.stderr, flush=True)


def _cache_compilations() -> None:
    """Keeps compiled programs between runs, unless JAX was told otherwise or there is no home."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    with contextlib.suppress(RuntimeError, OSError):  # no home, or one that is read-only
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "unified_fm" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))


def _join_other_processes(options: flags.FlagValues) -> None:
    """Connects the processes of a pod or cluster, if there is more than one."""
    named = {}
    if options.coordinator or options.process:
        index, _, count = (options.process or "").partition("/")
        if not options.coordinator or not (index.isdigit() and count.isdigit()):
            raise ValueError("--coordinator=HOST:PORT and --process=I/N go together")
        named = {
            "coordinator_address": options.coordinator,
            "process_id": int(index),
            "num_processes": int(count),
        }
    wanted = options.distributed
    if wanted is None:
        wanted = bool(named) or _in_cluster()
    if not wanted:
        return
    _log.info("waiting for the other processes (start this on all N workers)")
    try:
        jax.distributed.initialize(initialization_timeout=options.start_timeout, **named)
    except Exception as error:
        raise RuntimeError(
            f"the processes did not find each other within {options.start_timeout} s: {error}\n"
            "Start this same command on all N workers at the same time; --start_timeout=SECONDS "
            "waits longer, --nodistributed runs this one alone"
        ) from error


def _in_cluster() -> bool:
    """Whether the environment names other processes: a TPU pod, SLURM, MPI, or JAX's variables."""
    environment = os.environ
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    counts = (environment.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    several = len(hosts) > 1 or any(n.isdigit() and int(n) > 1 for n in counts)
    return several or bool(environment.get("JAX_COORDINATOR_ADDRESS"))


def _run(options: flags.FlagValues, config: Mapping[str, Any], stop: Interruption) -> int:
    from unified_fm import train

    folder = epath.Path(options.workdir)
    surroundings.check(folder)
    stop.folder = str(folder)
    with contextlib.ExitStack() as stack:
        held = None
        if jax.process_index() == 0:
            held = stack.enter_context(workdir.lock(folder, force=options.force))
            stop.last_words.append(held.release)
        fit = functools.partial(train.train, lock=held)
        config = teacher_runs.train(config, folder, stop, fit)
        if config is not None:  # no signal while teachers were trained
            (train.evaluate if config["mode"] == "evaluate" else fit)(config, folder, stop)
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
    with Interruption() as interruption:
        interruption.leave(_main(sys.argv, interruption))
