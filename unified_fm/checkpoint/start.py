"""One way in: the parameters that a run, or a teacher, starts with.

    c.init = "runs/base"                        a run, or a checkpoint of ours
    c.init = "xfm:xfm.th"                       weights of another library, FAMILY:PATH
    c.init = dict(text="roberta:PATH", vision="runs/vision")                    each part its own
    c.init = dict(path="runs/base", fresh=["nlvr2_head/.*"], copy=[("fusion/(.*)", r"decoder/\\1")])

Whatever the source, its parameters get this model's names (`rename`, `copy`), position embeddings
and relative-position tables are resized to its grid, and what is new here or left over there is one
list, which is logged and, where nothing allows it, refused.

    path: a run, a checkpoint, or FAMILY:PATH (`convert.families`); "all" is the same.
    text, vision: the same for the parts of a model that `PARTS` lists.
    step: of a run; by default the latest.
    heads: of foreign weights without a `config.json` that tells how many.
    rename: [(regex of a whole path there, its name here)]; the first pair that fits counts.
    copy: [(regex of a whole path there, after renaming, a further name for it here)]; what the
        source has under that name itself stays.
    fresh: regexes of paths here that are initialised anew, even if the source has them.
    allow: regexes of paths that may be absent there, of another shape there (both stay fresh), or
        there alone (left out); of foreign weights also of names in the file.
    leave: regexes of paths that are there alone and are left out: [".*"] where a task needs only a
        part of what is there. It allows nothing that this model lacks.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np

from unified_fm import choices, rules
from unified_fm.checkpoint import diff as tree_diff
from unified_fm.checkpoint.store import load_params
from unified_fm.convert import families, hf_models, resize, source
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers import weights
from unified_fm.data import tokenizer_files
from unified_fm.runtime import workdir

_log = logging.getLogger(__name__)

# What a source may fill, by the first component of a path; "all" is everything.
PARTS: dict[str, tuple[str, ...]] = {
    "all": (),
    "text": ("text_embed", "text", "mlm_head"),
    "vision": ("patch_embed", "vision"),
}
KEYS = ("path", *PARTS, "step", "heads", "rename", "copy", "fresh", "allow", "leave")
_FAMILY = re.compile(r"[\w.-]+:(?!//)")  # what begins FAMILY:PATH, but not a bucket

_OTHER = "init: %s was trained with %s = %r, model.%s.%s is %r: other outputs than there"
_MISFIT = "does not fit this model (init.allow lists paths that may differ):"

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(kw_only=True)
class Found:
    """What a start found, by paths of this model.

    Attributes:
        arrays: to start from, in this model's shapes.
        new: paths that the sources do not fill.
        left: paths, as the sources' names have become, that this model has no place for.
        resized: {path: shape in the source}.
    """

    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    new: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    resized: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        resized = [
            f"{name} {shape} -> {self.arrays[name].shape}" for name, shape in self.resized.items()
        ]
        lists = {"resized": resized, "new, initialised here": self.new, "left over": self.left}
        lines = [f"{len(self.arrays)} parameters start from it"]
        lines += [
            choices.listed(f"{len(names)} {what}:", names) for what, names in lists.items() if names
        ]
        return "\n".join(lines)


def check(init: Any, where: str) -> None:
    """Refuses a setting `init`, called `where`, that cannot work; opens nothing.

    Raises:
        ValueError, TypeError: what was wrong, what is possible.
    """
    if not init:
        return
    if not isinstance(init, str | Mapping):
        raise TypeError(f"config.{where} is a run, 'FAMILY:PATH' or a dict, found {init!r}")
    for key in init if isinstance(init, Mapping) else ():
        if key not in KEYS:
            raise ValueError(f"config.{where} has no key {key!r}; {choices.possible(key, KEYS)}")
    _check_patterns(_options(init), where)
    sources = _sources(init)
    if not sources:
        raise ValueError(
            f"config.{where} names no source; {choices.possible('', ('path', *PARTS))}"
        )
    for part, text in sources.items():
        key = "path" if part == "all" and "path" in init else part
        _check_source(text, f"{where}.{key}" if isinstance(init, Mapping) else where)


def _check_patterns(init: Mapping[str, Any], where: str) -> None:
    for key in ("rename", "copy", "fresh", "allow", "leave"):
        for entry in init.get(key) or ():
            try:
                pattern = entry
                if key in ("rename", "copy"):
                    pattern, _ = entry
                re.compile(pattern)
            except (TypeError, ValueError, re.error) as error:
                raise ValueError(f"config.{where}.{key}: {entry!r} is no rule: {error}") from error


def _check_source(text: str, where: str) -> None:
    try:
        path = families.parse(text)[1] if is_foreign(text) else text
        path = path if path.startswith("hf:") else families.fetch(path)
    except ConversionError as error:
        raise ValueError(f"config.{where}: {error}") from error
    looked_for_later = path.startswith("hf:") or "://" in path
    if not looked_for_later and not os.path.exists(path):
        hint = f" (of other libraries: FAMILY:PATH, {', '.join(families.FAMILIES)})"
        hint = "" if is_foreign(text) else hint
        raise ValueError(f"config.{where}: there is no file or folder {path}{hint}")


def is_foreign(text: str) -> bool:
    """Whether a source is FAMILY:PATH, and not a run or a checkpoint of ours."""
    return bool(_FAMILY.match(text)) and not os.path.exists(text)


def place_of(text: str) -> str:
    """Where a source lies: of FAMILY:PATH the file or folder, of a package's the one inside it.

    Raises:
        ConversionError: there is no such package.
    """
    return families.fetch(families.parse(text)[1]) if is_foreign(text) else text


def start(fresh: Any, init: Any) -> Any:
    """The tree of `fresh`, on its devices and sharded as it is, with what the sources have.

    Raises:
        ValueError: as `read`.
    """
    found = read(init, tree_diff.shapes(fresh))
    _log.info("init %s: %s", init, found)
    return placed(fresh, found.arrays)


def placed(fresh: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The tree of `fresh` with these arrays in it, of its types and sharded as it is."""

    def leaf(path, param):
        name = rules.path_name(path)
        if name not in arrays:
            return param
        array = np.asarray(arrays[name], param.dtype)
        return jax.make_array_from_callback(param.shape, param.sharding, lambda i: array[i])

    return jtu.tree_map_with_path(leaf, fresh)


def read(init: Any, shapes: Shapes, *, title: str | None = None, partial: bool = False) -> Found:
    """Reads what the sources have for a model.

    Args:
        init: the setting; see the module.
        shapes: {path: shape} of the model's parameters.
        title: begins the message about what does not fit; by default names the source.
        partial: what is in the source alone is no fault: only a part of it is wanted.

    Raises:
        ValueError: no checkpoint, or a damaged one.
        CheckpointFormatError: foreign weights cannot be read safely.
        ConversionError: an unknown family; other arrays or shapes than wanted that nothing allows,
            with the first ten of them; or an entry of `copy` or `fresh` that fits nothing.
    """
    options = {key: value for key, value in _options(init).items() if value is not None}
    _check_used("fresh", options.get("fresh", ()), shapes, "the model")
    loaded = {part: _loaded(text, options, shapes) for part, text in _sources(init).items()}
    names = [name for arrays, _ in loaded.values() for name in arrays]
    _check_used("copy", [pattern for pattern, _ in options.get("copy", ())], names, "the source")

    total = Found()
    for part, text in _sources(init).items():
        arrays, may_lack = loaded.pop(part)
        found = fitted(
            arrays,
            shapes,
            part=part,
            copy=options.get("copy", ()),
            fresh=options.get("fresh", ()),
            allow=(*options.get("allow", ()), *may_lack),
            leave=options.get("leave", ()),
            title=title or f"{text} {_MISFIT}",
            # Other libraries' files have heads that we have not; a part leaves the others out.
            partial=partial or part != "all" or is_foreign(text),
        )
        total.arrays |= found.arrays
        total.resized |= found.resized
        total.left += found.left
    total.new = sorted(set(shapes) - set(total.arrays))
    return total


def fitted(
    arrays: Mapping[str, np.ndarray],
    shapes: Shapes,
    *,
    part: str = "all",
    rename: Sequence[tuple[str, str]] = (),
    copy: Sequence[tuple[str, str]] = (),
    fresh: Sequence[str] = (),
    allow: Sequence[str] = (),
    leave: Sequence[str] = (),
    title: str = "the file does not fit this model:",
    partial: bool = False,
) -> Found:
    """Names and resizes the arrays of one source; arguments as in the module and `read`.

    Raises:
        ConversionError: what does not fit.
    """

    def own(path):
        return not PARTS[part] or path.split("/")[0] in PARTS[part]

    arrays = {name: leaf for name, leaf in _renamed(arrays, rename).items() if own(name)}
    # A copy may go to another part: a decoder starts from the text side. And to what is fresh: a
    # config calls all of its head so, of which a user may have something after all.
    there = _copied(arrays, copy) | {n: x for n, x in arrays.items() if not _fits(fresh, n)}
    wanted = {
        name: shape
        for name, shape in shapes.items()
        if name in there or (own(name) and not _fits(fresh, name))
    }
    sized = {n: resize.fit(n, leaf, wanted[n]) for n, leaf in there.items() if n in wanted}
    found = Found(left=sorted(set(there) - set(wanted)))
    found.arrays = {name: leaf for name, leaf in sized.items() if leaf.shape == wanted[name]}
    was = {name: there[name].shape for name in found.arrays}
    found.resized = {name: shape for name, shape in was.items() if shape != wanted[name]}
    found.new = sorted(set(shapes) - set(found.arrays))
    lines = tree_diff.shape_differences(
        {
            name: leaf.shape
            for name, leaf in there.items()
            if name not in found.arrays
            and not _fits(allow, name)
            and not (name not in wanted and _fits(leave, name))
        },
        {n: s for n, s in wanted.items() if n not in found.arrays and not _fits(allow, n)},
        extra=not partial,
    )
    if lines:
        raise ConversionError(choices.listed(title, lines))
    return found


def warn_of_other_numbers(init: Any, towers: Mapping[str, Any]) -> None:
    """Warns where a model computes otherwise than the one that its foreign weights were trained in.

    `towers` is {"text" or "vision": its encoder's numbers, `eps` and `gelu`}, of the model.
    """
    for part, text in _sources(init).items():
        if not is_foreign(text):
            continue
        family, path = families.parse(text)
        told = source.of_hf(family, weights.read_config(families.fetch(path)))
        for name in set(told) & set(towers) & ({"text", "vision"} if part == "all" else {part}):
            eps, gelu = told[name].get("layer_norm_eps"), told[name].get("hidden_act", "")
            pairs = {
                "eps": (eps, towers[name].eps),
                "gelu": (hf_models.GELU.get(gelu), towers[name].gelu),
            }
            for key, (theirs, ours) in pairs.items():
                if theirs is not None and theirs != ours:
                    _log.warning(_OTHER, text, key, theirs, name, key, ours)


def source_of(init: Any) -> str | None:
    """The run, checkpoint or FAMILY:PATH that all of a start comes from; None: there is none."""
    return _sources(init).get("all") if isinstance(init, str | Mapping) else None


def model_of(init: Any) -> dict[str, Any] | None:
    """The name and options of the model that runs foreign weights, if their folder tells them."""
    if not isinstance(init, str) or not is_foreign(init):
        return None
    return hf_models.read(families.fetch(families.parse(init)[1]))


def tokenizer_of(text: str) -> str | None:
    """The folder of foreign weights, if the files of a tokenizer lie in it."""
    folder = place_of(text)
    names = tokenizer_files.NAMES
    return folder if any(os.path.exists(os.path.join(folder, name)) for name in names) else None


def _sources(init: str | Mapping[str, Any]) -> dict[str, str]:
    """{part: run, checkpoint or FAMILY:PATH}."""
    if isinstance(init, str):
        return {"all": init}
    found = {part: str(init[part]) for part in PARTS if init.get(part)}
    return {"all": str(init["path"]), **found} if init.get("path") else found


def _options(init: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return init if isinstance(init, Mapping) else {}


def _loaded(
    text: str, options: Mapping[str, Any], shapes: Shapes
) -> tuple[dict[str, np.ndarray], Sequence[str]]:
    """The arrays of one source, renamed, and the paths that such a source need not have."""
    may_lack: Sequence[str] = ()
    if is_foreign(text):
        family, path = families.parse(text)
        query = "/layer_00/self_attn/query/kernel"
        own = {n.split("/")[0]: shape[1] for n, shape in shapes.items() if n.endswith(query)}
        heads, allow = options.get("heads"), options.get("allow") or ()
        tree = families.load(family, path, heads=heads, fallback_heads=own, allow=allow)
        may_lack = families.FAMILIES[family].fresh
    else:
        folder, step = workdir.absolute(text), options.get("step")
        if folder.name.isdigit():  # RUN/checkpoints/8000
            folder, step = folder.parent, int(folder.name)
        tree = load_params(folder, step)
    return _renamed(dict(rules.named_leaves(tree)), options.get("rename", ())), may_lack


def _renamed(arrays: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """So a UFM starts from its image teacher: `("vision/(layer_.*|norm/.*)", r"encoder/\\1")`."""

    def name_here(name):
        for pattern, replacement in pairs:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return name

    return {name_here(name): leaf for name, leaf in arrays.items()}


def _copied(arrays: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        re.sub(pattern, replacement, name): leaf
        for pattern, replacement in pairs
        for name, leaf in arrays.items()
        if re.fullmatch(pattern, name)
    }


def _check_used(key: str, patterns: Iterable[str], names: Iterable[str], where: str) -> None:
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ConversionError(f"init.{key}: no parameter of {where} matches {pattern!r}")


def _fits(patterns: Iterable[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
