"""Rules: an ordered list of `(path regex, value)` that gives every parameter a value.

One matcher serves the learning-rate scale, weight decay, freezing, sharding, "which parameters are
shared" and what a checkpoint may omit. The regex must match the whole path (`text/layer_00/mlp_in/
kernel`); the first rule that matches wins; a parameter that no rule matches is an error, since a
rule that is forgotten is otherwise found only after the run.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.tree_util as jtu

from unified_fm import choices

Rules = Sequence[tuple[str, Any]]


def path_name(path: Sequence[Any]) -> str:
    """Writes a `jax.tree_util` key path as `a/b/c`."""
    return jtu.keystr(tuple(path), simple=True, separator="/")


def named_leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yields `("a/b/c", leaf)` for every leaf of `tree`, in the tree's own order."""
    for path, leaf in jtu.tree_flatten_with_path(tree)[0]:
        yield path_name(path), leaf


def names(tree: Any) -> list[str]:
    """Lists the paths of all leaves of `tree`."""
    return [name for name, _ in named_leaves(tree)]


def assign(tree: Any, rules: Rules, *, what: str = "rules") -> Any:
    """Gives every leaf of `tree` the value of the first rule that matches its path.

    Args:
        tree: any tree of parameters (arrays or shapes; the leaves are not read).
        rules: ordered `(regex, value)` pairs; the regex matches the whole path.
        what: the name of the rule list, for the message.

    Returns:
        A tree of the same structure whose leaves are the values.

    Raises:
        ValueError: a path is matched by no rule (all such paths are counted, ten are listed), or a
            rule is not a pair of a valid regex and a value.
    """
    compiled = _compile(rules, what)
    leaves, structure = jtu.tree_flatten_with_path(tree)
    paths = [path_name(path) for path, _ in leaves]
    found = [_first(name, compiled) for name in paths]
    unmatched = [name for name, value in zip(paths, found, strict=True) if value is None]
    if unmatched:
        title = f"{what}: no rule matches {len(unmatched)} parameter(s):"
        patterns = ", ".join(repr(pattern.pattern) for pattern, _ in compiled) or "none"
        raise ValueError(
            f"{choices.listed(title, unmatched)}\n"
            f"The rules are {patterns}. End the list with ('.*', value) to cover the rest."
        )
    return structure.unflatten([value for _, value in filter(None, found)])


def match(name: str, rules: Rules, *, what: str = "rules") -> Any:
    """Returns the value that `assign` would give to the one path `name`.

    Raises:
        ValueError: no rule matches.
    """
    found = _first(name, _compile(rules, what))
    if found is None:
        raise ValueError(f"{what}: no rule matches {name!r}")
    return found[1]


def named(value: Any, known: Mapping[str, Rules], what: str) -> Rules:
    """The rule list that `value` is, or names.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(value, str):
        return value
    return known[choices.check(f"the name of the rule list {what}", value, sorted(known))]


def unused(tree: Any, rules: Rules) -> list[str]:
    """Lists the regexes that decide no parameter of `tree`: usually a misspelt path."""
    patterns = [pattern for pattern, _ in _compile(rules, "rules")]
    deciding = {next((p for p in patterns if p.fullmatch(name)), None) for name in names(tree)}
    return [pattern.pattern for pattern in patterns if pattern not in deciding]


def check_used(tree: Any, rules: Rules, *, what: str = "rules") -> None:
    """Refuses rules that decide no parameter of `tree`; only the last, ".*", may find none left.

    Args:
        tree, rules, what: as of `assign`.

    Raises:
        ValueError: with the first ten such rules and what the paths begin with.
    """
    idle = [pattern for pattern in unused(tree, rules) if pattern != ".*"]
    if idle:
        tops = sorted({name.split("/")[0] for name in names(tree)})
        title = f"{what}: {len(idle)} rule(s) decide no parameter:"
        raise ValueError(
            f"{choices.listed(title, idle)}\n"
            "Is a path misspelt, not of this model, or matched by a rule above? Paths begin with"
            f" {', '.join(tops)}; `unified-fm show params` lists them."
        )


def _first(name: str, compiled: Sequence[tuple[re.Pattern[str], Any]]) -> Any:
    """The first pair whose pattern matches the whole of `name`, or None."""
    return next((pair for pair in compiled if pair[0].fullmatch(name)), None)


def _compile(rules: Iterable[Any], what: str) -> list[tuple[re.Pattern[str], Any]]:
    compiled = []
    for rule in rules:
        if isinstance(rule, str) or len(rule) != 2:
            raise ValueError(f"{what}: a rule is a pair (path regex, value), found {rule!r}")
        pattern, value = rule
        try:
            compiled.append((re.compile(pattern), value))
        except (re.error, TypeError) as error:
            raise ValueError(f"{what}: {pattern!r} is not a regular expression: {error}") from None
    return compiled
