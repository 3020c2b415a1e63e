"""The command `unified-fm`: what a user does daily, one verb each.

    unified-fm train --config=quickstart --workdir=runs/quickstart
    unified-fm show batch --config=quickstart
    unified-fm VERB --help

A verb's module is imported when it is asked for, so the list of verbs needs no JAX. The exit status
is that of the verb; 2 where there is no such verb.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from unified_fm import __version__, choices
from unified_fm.runtime import huge_pages

# Verb -> what it does, in one line; its module is unified_fm/commands/VERB.py.
VERBS = {
    "train": "train a config, or go on where its workdir stopped",
    "evaluate": "evaluate a checkpoint of a run",
    "predict": "ask a checkpoint about images and texts, one JSON line each",
    "scoreboard": "many tasks from a checkpoint, from scratch, and trivial baselines",
    "probe": "frozen features on labelled pictures: linear, k-NN, mlp5, zero-shot",
    "card": "a model card of a run or an exported folder, from what was measured",
    "serve": "a web page that asks a checkpoint, for this machine only",
    "score": "predictions against official files: no model, no device",
    "show": "print the settings, one batch or the parameters of a config",
    "convert": "checkpoints of other libraries to ours, and ours to theirs",
    "data": "check, show and prepare data",
    "cache": "write once what a teacher says, for runs that read it",
    "bench": "measure the step of a config, or a part of it, on this machine",
    "plan": "what a run needs on devices that are not here, from its compiled step",
    "golden": "compare X-FM with recorded values of the published system",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; None is the command line of the process. Returns the exit status."""
    verb, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if verb in ("", "-h", "--help", "help"):
        print(_help())
        return 0
    if verb == "--version":
        print(__version__)
        return 0
    if verb not in VERBS:
        print(f"unified-fm: no verb {verb!r}; {choices.possible(verb, VERBS)}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"unified_fm.commands.{verb}")
    return command.main(rest[:-1], f"unified-fm {verb}")


def run() -> None:
    """The console script. Modules in the folder of the call are found, as by `python -m`."""
    huge_pages.restart()
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    sys.exit(main())


def _help() -> str:
    verbs = "\n".join(f"    {verb:<10} {line}" for verb, line in VERBS.items())
    return f"usage: unified-fm VERB [ARGUMENT...]\n\n{verbs}\n\nunified-fm VERB --help says more."
