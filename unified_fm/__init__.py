"""Unified foundation models for language, vision and vision-language, in JAX. See README.md.

import unified_fm
model = unified_fm.load("runs/quickstart")          see unified_fm.inference.loading
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unified_fm.inference.loading import load as load

__version__ = "0.1.0"


def __getattr__(name: str):
    """`load`, imported when it is first asked for: `import unified_fm` alone needs no JAX."""
    if name == "load":
        from unified_fm.inference.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
