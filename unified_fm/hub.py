"""Where files lie that are named `hf:OWNER/NAME` or `package:NAME/FOLDER`; all else is a path.

Only `hf:` may load something, and only because it was written: into the cache of huggingface_hub,
where a second call finds it (`HF_HUB_OFFLINE=1` looks nowhere else).
"""

import importlib.util
import os
from collections.abc import Sequence


def is_name(text: str) -> bool:
    """Whether it names a repository or a package, and is no path."""
    return text.startswith(("hf:", "package:"))


def folder(text: str, wanted: Sequence[str]) -> str:
    """The local folder of a name, or the path that it is.

    Args:
        text: `hf:OWNER/NAME`, of which the files that match `wanted` are downloaded if they are not
            in the cache; `package:NAME/FOLDER`, a folder in an installed Python package, which is
            not imported; or a path.
        wanted: patterns ("*.json").

    Raises:
        FileNotFoundError: there is no such package, or the repository cannot be had.
    """
    if text.startswith("package:"):
        return _in_package(text)
    if not text.startswith("hf:"):
        return text
    import huggingface_hub  # only where it is asked for: the import takes a second

    try:
        return huggingface_hub.snapshot_download(text[3:], allow_patterns=list(wanted))
    except (ValueError, OSError) as error:  # a wrong name, no such repository, no network
        raise FileNotFoundError(
            f"{text} is neither in the cache of huggingface_hub nor can it be downloaded: {error}"
        ) from error


def _in_package(text: str) -> str:
    name, _, inner = text.removeprefix("package:").partition("/")
    # Looking for an inner package would import the outer one.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{text}: there is no installed package {name!r}")
    return os.path.join(spec.submodule_search_locations[0], inner)
