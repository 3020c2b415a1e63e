"""X-FM so small that its step compiles in seconds: texts and images, without their fusion."""

from ml_collections import ConfigDict

from unified_fm.config import python, settings


def get_config(argument: str = "") -> ConfigDict:
    """The config; takes no argument."""
    c = settings.start(argument)
    given = python.read("xfm_base:smoke")
    c.update({key: given[key] for key in ("model", "optimizer", "mesh")})
    c.streams = {name: given["streams"][name] for name in ("text", "image")}
    c.total_steps = 2
    return c
