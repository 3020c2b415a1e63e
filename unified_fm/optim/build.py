"""The optimizer: one optax chain whose first link merges the gradients of the groups.

    merge -> freeze -> clip by global norm -> Adam -> decoupled weight decay
          -> learning rate (schedule x path rules) -> what the merge adds (`after`) -> projection

A merge may have a clip and an Adam of its own for some parameters (`Merge.has_adam`); these two
links then leave them as they are.

Every per-parameter number comes from path rules, so a rule list says all there is to know about how
a parameter is trained; `unified-fm show params` prints the outcome.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unified_fm import rules as path_rules
from unified_fm.optim import layerwise, moments, norms, schedules
from unified_fm.optim.merge.base import Adam, as_merge
from unified_fm.optim.settled import settled

Rules = path_rules.Rules

# Rule lists with a name. "correct" is what we decided (X-FM section 9), "official" what the
# published code does: its decay is switched off by substrings of its own names, which leaves the
# layer scales, tokens, temperature and the norms inside the ITM and box heads decayed, and its
# doubled rate leaves out the fusion encoder, which is as fresh as the heads.
_HEADS = "(text|image)_proj/.*|temperature|(itm|box)_head/.*"
NAMED_RULES: dict[str, dict[str, Rules]] = {
    "lr_scale": {
        "plain": [(".*", 1.0)],
        "correct": [(f"fusion/.*|fusion_mlm_head/.*|{_HEADS}", 2.0), (".*", 1.0)],
        "official": [(_HEADS, 2.0), (".*", 1.0)],
    },
    "weight_decay": {
        "plain": [(".*", 1.0)],
        "correct": [
            (".*/(bias|scale)|.*/relative_position_bias", 0.0),
            (r".*_token|.*/scale_\w+|temperature", 0.0),
            (".*", 1.0),
        ],
        "official": [("(itm|box)_head/norm/scale", 1.0), (".*bias|.*norm/scale", 0.0), (".*", 1.0)],
    },
    "frozen": {"plain": [(".*", False)]},
}
_DEFAULT_RULES = {"lr_scale": "plain", "weight_decay": "correct", "frozen": "plain"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The numbers of AdamW. The defaults are optax's, with clipping off.

    Attributes:
        lr: peak learning rate.
        b1, b2, eps: Adam's, with bias correction.
        weight_decay: decoupled, multiplied by the learning rate and by the rules.
        clip: largest global norm of the merged gradient; None does not clip.
        schedule: arguments of `schedules.build` without `total_steps`.
    """

    lr: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float | None = None
    schedule: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "constant"})


class ClipState(NamedTuple):
    """The global norm of the last gradient that went in, before clipping."""

    grad_norm: jax.Array  # f32[]


def build(
    params: Any,
    *,
    merge: optax.GradientTransformationExtraArgs,
    settings: Settings,
    total_steps: int,
    rules: Mapping[str, Any] | None = None,
    project: Rules = (),
) -> optax.GradientTransformationExtraArgs:
    """Makes the chain.

    Args:
        params: the parameter tree, or its shapes.
        merge: the first link, from `{group: gradient tree}` to one tree.
        settings: AdamW's numbers.
        total_steps: length of the schedule.
        rules: `lr_scale`, `weight_decay` and `frozen`, each a rule list or the name of one (see
            `named_rules`); a missing one is the default.
        project: `(path regex, (low, high))`: these parameters are moved back into the interval
            after the update, without a gradient (X-FM 1.5: the temperature). A `jnp.clip` inside
            the loss would kill the gradient at the border.

    Returns:
        A transformation whose `update` takes `{group: gradient tree}`. Its `init` raises a
        ValueError where a merge with an Adam of its own is followed by one more.
    """
    values = assigned_rules(params, rules)
    frozen = values["frozen"]
    rate = jax.tree.map(lambda f, x: 0.0 if f else x, frozen, values["lr_scale"])
    trained = jax.tree.map(lambda f: not f, frozen)
    schedule = schedules.build(total_steps=total_steps, **settings.schedule)
    b1, b2, eps = settings.b1, settings.b2, settings.eps
    merge = as_merge(merge, "merge").for_adam(Adam(b1, b2, eps, settings.clip, trained))
    own = merge.has_adam(params)
    links = [
        merge,
        _multiply(jax.tree.map(float, trained)) if any(jax.tree.leaves(frozen)) else None,
        _except(own, clip(settings.clip)),
        optax.masked(
            optax.scale_by_adam(b1, b2, eps), jax.tree.map(lambda t, o: t and not o, trained, own)
        ),
        _decay(jax.tree.map(lambda x: x * settings.weight_decay, values["weight_decay"])),
        _multiply(rate),
        optax.scale_by_schedule(lambda count: -settings.lr * schedule(count)),
        merge.after,
        _project(project) if project else None,
    ]
    chain = optax.chain(*(link for link in links if link is not None))

    def init(params):
        state = chain.init(params)
        moments.refuse_second(state)
        return state

    return optax.GradientTransformationExtraArgs(init, chain.update)


def assigned_rules(params: Any, rules: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Gives every parameter its `lr_scale`, `weight_decay` and `frozen`.

    Raises:
        ValueError: an unknown name of a rule list, or a parameter that no rule matches.
    """
    given = {kind: named_rules(kind, (rules or {}).get(kind), params) for kind in _DEFAULT_RULES}
    return {kind: path_rules.assign(params, found, what=kind) for kind, found in given.items()}


def check_used(params: Any, rules: Mapping[str, Any]) -> None:
    """Refuses lists with rules that decide no parameter, before a run begins.

    Those with a name are for models of every kind, so they may have some.

    Args:
        params, rules: as of `build`.

    Raises:
        ValueError: with these rules.
    """
    for kind in _DEFAULT_RULES:
        if (value := rules.get(kind)) is not None and not isinstance(value, str):
            path_rules.check_used(params, value, what=f"config.rules.{kind}")


def named_rules(kind: str, value: Any, params: Any = None) -> Rules:
    """Returns the rule list that `value` is or names; None is the default list.

    Args:
        kind: "lr_scale", "weight_decay" or "frozen".
        value: a list, or a name of `NAMED_RULES`; of `lr_scale` also "layerwise:DECAY".
        params: the parameter tree or its shapes, of which the layers are counted; None: there is
            none yet, and the name alone is looked at.

    Raises:
        ValueError: an unknown name, or a model that the list cannot be made for.
    """
    value = _DEFAULT_RULES[kind] if value is None else value
    known = NAMED_RULES[kind]
    if kind == "lr_scale":
        if isinstance(value, str) and value.startswith(layerwise.NAME):
            decay = layerwise.decay_of(value)
            return [] if params is None else layerwise.of_params(params, decay)
        known = {**known, f"{layerwise.NAME}DECAY": []}  # for the message
    return path_rules.named(value, known, kind)


def clip(max_norm: float | None) -> optax.GradientTransformation:
    """Clips by the global norm and keeps the norm from before in its state, for the log."""

    def init(params):
        del params
        return ClipState(jnp.zeros((), jnp.float32))

    def update(updates, state, params=None):
        del state, params
        norm = settled(norms.norm(updates))
        if max_norm is not None:
            factor = jnp.minimum(1.0, max_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
            updates = jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)
        return updates, ClipState(norm.astype(jnp.float32))

    return optax.GradientTransformation(init, update)


def merged_norm(opt_state: Any) -> jax.Array:
    """The norm f32[] of the merged gradient before any clipping, as the clipping link has seen it.

    With a merge that clips each group on its own (`per_task_adam`) there are several such links,
    and no merged gradient on what the groups share. Then it is the root of the sum of all squares:
    of each group's norm on the shared parameters, and of the norm of the summed gradient on the
    others. That is the norm of the sum of the groups' gradients if these are orthogonal on what
    they share, and exactly so for one group; a spike of any group shows.
    """
    states = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, ClipState))
    found = [x.grad_norm for x in states if isinstance(x, ClipState)]
    return found[0] if len(found) == 1 else norms.norm(found)


def _except(own: Any, link: optax.GradientTransformation) -> optax.GradientTransformation:
    """The link for the leaves where `own` is False; the others pass it by."""
    if not any(jax.tree.leaves(own)):
        return link  # its state, which is saved, is then that of the link
    return optax.masked(link, jax.tree.map(lambda o: not o, own))


def _multiply(factors: Any) -> optax.GradientTransformation:
    """Multiplies every update by its own constant."""

    def update(updates, params):
        del params
        return jax.tree.map(lambda x, f: x if f == 1.0 else x * f, updates, factors)

    return optax.stateless(update)


def _decay(factors: Any) -> optax.GradientTransformation:
    """Adds `factor * parameter` to every update: decoupled decay, scaled by the rate later."""

    def update(updates, params):
        return jax.tree.map(lambda x, p, f: x if f == 0.0 else x + f * p, updates, params, factors)

    return optax.stateless(update)


def _project(intervals: Rules) -> optax.GradientTransformation:
    """Shortens updates so that the parameters named end inside their intervals."""
    intervals = [*intervals, (".*", None)]

    def inside(path, update, param):
        interval = path_rules.match(path_rules.path_name(path), intervals, what="project")
        if interval is None:
            return update
        low, high = interval
        return jnp.clip(param + update, low, high) - param

    def update(updates, params):
        return jax.tree.map_with_path(inside, updates, params)

    return optax.stateless(update)
