"""Teachers of whom only the best k of C logits are known: k outcomes, and all others as one lump.

What is not known of the others cannot be made up. One and the same logit for each, for example, is
a target of its own, which pulls a student's other words towards the same probability. Known is what
they have *together*, at one temperature T. Distillation then compares k + 1 outcomes, for which the
student's own others are put together in the same way. That is the divergence of the same two
distributions after outcomes were merged: never above the whole divergence, 0 where the student is
the teacher, and it says nothing about how the student divides its rest.

For "kl" the lump is the word "another": log sum exp(u / T) of the others, which stands beside the
k logits u / T. For "sigmoid_kl", whose classes are independent questions, it is one more question,
"is any of the others a yes?": the probability of no is the product of theirs,
exp(-sum softplus(u / T)), and its logit is log(expm1(sum softplus(u / T))).
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

KINDS = ("kl", "sigmoid_kl")  # divergences whose other outcomes can be lumped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncated:
    """What is known of a teacher's logits f32[... C].

    Attributes:
        ids: i32[... k], the best first.
        logits: f32[... k], theirs.
        rests: {`name` of a divergence and a temperature: f32[...], `rest` of the others}.
        classes: C, number of classes or words.
    """

    ids: jax.Array
    logits: jax.Array
    rests: Mapping[str, jax.Array]
    classes: int = dataclasses.field(metadata={"static": True})


def name(kind: str, temperature: float) -> str:
    """What a lump was made for: "kl at T=2.0"."""
    return f"{kind} at T={float(temperature)!r}"


def rest(kind: str, logits: jax.Array, ids: jax.Array, temperature: float) -> jax.Array:
    """The logit of the lump, f32[...], already divided by the temperature.

    Args:
        kind: of `KINDS`.
        logits: f32[... C].
        ids: i32[... k], those that are not in the lump; k < C.
        temperature: T.
    """
    others = jnp.put_along_axis(logits, ids, -jnp.inf, axis=-1, inplace=False) / temperature
    if kind == "kl":
        return jax.nn.logsumexp(others, axis=-1)
    # -log of the probability that all are a no; not 0, whose logit would be -inf.
    no = jnp.maximum(jax.nn.softplus(others).sum(-1), 1e-30)
    return no + jnp.log(-jnp.expm1(-no))


def outcomes(logits: jax.Array, rest: jax.Array, temperature: float) -> jax.Array:
    """Logits f32[... k+1] at the temperature, of logits f32[... k] and their rest f32[...]."""
    return jnp.concatenate([logits / temperature, rest[..., None]], axis=-1)
