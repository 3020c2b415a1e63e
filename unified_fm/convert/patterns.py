"""Name patterns: one string that both recognises foreign names and writes the preferred one.

    [bert.]encoder.layer.{i}.output.LayerNorm.{weight|gamma}

`{i}` is the layer number, `{a|b}` one of several spellings, `{*}` anything, `[x]` a piece that may
be absent. Writing takes the first spelling and keeps the optional pieces. In our own paths `{i}`
stands directly after `layer_` and is written with two digits.
"""

import dataclasses
import functools
import re

_PIECE = re.compile(r"\[([^\]]*)\]|\{([^}]*)\}|([^\[{]+)")


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A compiled pattern; `per_layer` tells whether it holds `{i}`."""

    regex: re.Pattern
    template: str
    per_layer: bool

    def match(self, name: str) -> tuple[bool, int | None]:
        """Tells whether `name` fits, and the layer number that it holds (None without one)."""
        found = self.regex.fullmatch(name)
        if not found:
            return False, None
        return True, int(found["i"]) if self.per_layer else None

    def write(self, layer: int | None) -> str:
        """The preferred spelling, for one layer."""
        return self.template.replace("{i}", str(layer))


@functools.cache
def compile_foreign(text: str) -> Pattern:
    """Compiles the pattern of a foreign name."""
    regex, template = "", ""
    for optional, choice, literal in _PIECE.findall(text):
        if literal:
            regex, template = regex + re.escape(literal), template + literal
        elif optional:
            regex, template = regex + f"(?:{re.escape(optional)})?", template + optional
        elif choice == "i":
            # Four digits at most: a hostile name must not ask for a billion layers.
            regex, template = regex + r"(?P<i>0|[1-9]\d{0,3})", template + "{i}"
        elif choice == "*":
            regex += ".*"
        else:
            options = choice.split("|")
            regex += f"(?:{'|'.join(map(re.escape, options))})"
            template += options[0]
    return Pattern(re.compile(regex), template, "{i}" in text)


@functools.cache
def compile_ours(text: str) -> Pattern:
    """Compiles the pattern of one of our parameter paths."""
    regex = re.escape(text).replace(re.escape("{i}"), r"(?P<i>\d{2,4})")
    return Pattern(re.compile(regex), text, "{i}" in text)


def write_ours(text: str, layer: int | None) -> str:
    """Our path for one layer: `text/layer_{i}/...` -> `text/layer_03/...`."""
    return text if layer is None else text.replace("{i}", f"{layer:02d}")
