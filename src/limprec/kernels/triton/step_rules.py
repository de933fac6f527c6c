"""Device code of the update rules, as ``steps.rules`` has them, in float32.

The kernels are compiled without contraction: every product and sum is rounded by itself.
"""

# Parameters in upper case are compile-time constants, as everywhere in Triton.
# ruff: noqa: N803
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def advance(
    g: tl.tensor,
    w: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    s0: tl.tensor,
    s1: tl.tensor,
    s2: tl.tensor,
    s3: tl.tensor,
    s4: tl.tensor,
    s5: tl.tensor,
    s6: tl.tensor,
    s7: tl.tensor,
    C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Return the update and the new states, in place of those that are not there anything.

    ``g`` is the gradient, ``w`` the parameter, ``a``, ``b`` and ``c`` the states; the numbers are
    those of ``steps.rules.SCALARS``, in their order.
    """
    if C.decay:
        g = g + s1 * w
    if C.rule == "sgd":
        direction = g
        if C.momentum:
            a = s2 * a + s3 * g
            direction = g + s2 * a if C.nesterov else a
        update = s0 * direction
    elif C.rule == "adam":
        a = s2 * a + s3 * g
        b = s4 * b + s5 * (g * g)
        most = b
        if C.amsgrad:
            c = tl.where(b > c, b, c)
            most = c
        update = s0 * tl.div_rn(a, tl.sqrt_rn(most) * s6 + s7)
    elif C.rule == "lion":
        mix = s2 * a + s3 * g
        sign = tl.where(mix > 0, 1.0, tl.where(mix < 0, -1.0, mix))
        update = s0 * sign
        a = s4 * a + s5 * g
    elif C.rule == "rmsprop":
        a = s3 * a + s4 * (g * g)
        spread = a
        if C.centered:
            b = s3 * b + s4 * g
            spread = a - b * b
            spread = tl.where(spread < 0, 0.0, spread)
        direction = tl.div_rn(g, tl.sqrt_rn(spread) + s5)
        if C.momentum:
            direction = s2 * (c if C.centered else b) + direction
            if C.centered:
                c = direction
            else:
                b = direction
        update = s0 * direction
    elif C.rule == "add":
        update = s0 * g
    else:  # average
        update = s0 * (g - w)
    if C.decoupled:
        update = update + s1 * w
    return update, a, b, c
