"""Where a command writes that writes local files only."""

import argparse
from pathlib import Path

from unified_fm import buckets


def local(text: str) -> Path:
    """The path in an argument, as its `type=`.

    Raises:
        argparse.ArgumentTypeError: it is in a bucket; the command ends with status 2.
    """
    try:
        buckets.refuse_output(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)
