"""The matrix products of a step, each by itself: how much of a step nothing else could save.

A product of 30 rows reaches a smaller part of the machine's rate than a large square one, whatever
stands around it. So the sum of what the products of a step take alone, at their own shapes, bounds
the share of that rate that the step could reach if all the rest of it were free.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from unified_fm.bench import machine, traced

_REPEATS = 3
_ROWS = 8  # of the table


@dataclasses.dataclass(frozen=True)
class Product:
    """A `dot_general` of two arrays.

    Attributes:
        left, right: their shapes.
        dimensions: ((contracted of left, of right), (batched of left, of right)).
        dtypes: of left, right and the result.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    dimensions: Any
    dtypes: tuple[str, str, str]

    @property
    def flops(self) -> float:
        """A multiply and an add as two."""
        (_, contracted), (_, batched) = self.dimensions
        kept = [n for d, n in enumerate(self.right) if d not in (*contracted, *batched)]
        return 2.0 * math.prod(self.left) * math.prod(kept)

    def __str__(self) -> str:
        left, right = ("x".join(map(str, shape)) for shape in (self.left, self.right))
        (contracted, _), (batched, _) = self.dimensions
        over = "x".join(str(self.left[d]) for d in contracted) or "1"
        each = "x".join(str(self.left[d]) for d in batched)
        return f"{left} by {right} over {over}" + (f", for each of {each}" if each else "")


def counted(jaxpr: Any) -> collections.Counter[Product]:
    """{product: how often a jaxpr computes it}, as `traced.flops` counts."""
    found: collections.Counter[Product] = collections.Counter()
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            left, right, out = (v.aval for v in (*equation.invars, *equation.outvars))
            dtypes = (left.dtype.name, right.dtype.name, out.dtype.name)
            made = Product(left.shape, right.shape, params["dimension_numbers"], dtypes)
            found[made] += 1
            continue
        inside = [counted(each) for each in traced.inside(params)]
        if name == "cond":
            inside = [max(inside, key=lambda c: sum(p.flops * n for p, n in c.items()))]
        times = params["length"] if name == "scan" else 1
        for each in inside:
            for product, number in each.items():
                found[product] += number * times
    return found


def alone(products: Mapping[Product, int], seconds: float, product_rate: float) -> list[str]:
    """Runs each kind of product by itself, and says what they take together.

    Args:
        products: of a step, on one device.
        seconds: of the step.
        product_rate: FLOP/s of the machine's large square products.
    """
    machine.say(f"{len(products)} kinds of matrix products, each by itself")
    took = {product: _seconds(product) * number for product, number in products.items()}
    total, work = sum(took.values()), sum(p.flops * n for p, n in products.items())
    lines = [
        f"alone         {total:.2f} s, {total / seconds:.0%} of the step: {work / 1e9:.0f} GFLOP "
        f"of products, each by itself, at {work / total / product_rate:.0%} of the product",
        f"{'of them':<14}{'s':>6} {'times':>6}  of the product",
    ]
    for product in sorted(took, key=took.__getitem__, reverse=True)[:_ROWS]:
        rate = product.flops * products[product] / took[product] / product_rate
        lines.append(f"{'':<14}{took[product]:6.2f} {products[product]:6d}  {rate:4.0%}  {product}")
    return lines


def _seconds(product: Product) -> float:
    shapes = zip((product.left, product.right), product.dtypes, strict=False)
    keys = jax.random.split(jax.random.key(0))
    arrays = [jax.random.normal(k, s, d) for k, (s, d) in zip(keys, shapes, strict=True)]
    kind = jnp.dtype(product.dtypes[2])

    @jax.jit
    def run(left, right):
        return jax.lax.dot_general(left, right, product.dimensions, preferred_element_type=kind)

    jax.block_until_ready(run(*arrays))
    return statistics.median(
        machine.timed(lambda: jax.block_until_ready(run(*arrays))) for _ in range(_REPEATS)
    )
