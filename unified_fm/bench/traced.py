"""The matrix products of a traced program, counted equation by equation.

XLA's own count of a compiled program has the body of a loop once, however often it runs, and on a
GPU no fused attention. Here a scan's body counts as often as it runs, and of a `cond` the most
expensive branch. Recomputation (remat) is in it; what XLA removes as unused is, too.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core

# (products forward, products backward) of a fused attention: scores and values; all that is
# computed again or differentiated.
_FUSED = {"dot_product_attention_fwd": 2, "dot_product_attention_bwd": 5}


def flops(jaxpr: Any) -> float:
    """FLOPs of the products of a jaxpr (closed or not), a multiply and an add as two.

    A `while` of unknown length counts once.
    """
    return float(sum(_of(equation) for equation in jaxpr.eqns))


def _of(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name.removesuffix("_wrapper") in _FUSED:
        return _attention(equation, _FUSED[name.removesuffix("_wrapper")])
    parts = [flops(jaxpr) for jaxpr in inside(params)]
    if name == "cond":
        return max(parts, default=0.0)
    return sum(parts) * (params["length"] if name == "scan" else 1)


def _product(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)


def _convolution(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    outputs = equation.params["dimension_numbers"].rhs_spec[0]
    size = math.prod(kernel) // kernel[outputs]
    return 2 * math.prod(equation.outvars[0].aval.shape) * size


def _attention(equation: Any, products: int) -> float:
    query, key = (equation.invars[place].aval.shape for place in (0, 1))  # [B T N H], [B S N H]
    if equation.params.get("layout"):  # [B N T H]
        query, key = ((b, t, n, h) for b, n, t, h in (query, key))
    batch, asked, heads, width = query
    return products * 2 * batch * heads * asked * key[1] * width


def inside(params: Any) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, core.Jaxpr | core.ClosedJaxpr):
                yield each
