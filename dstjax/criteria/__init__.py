"""Scores the weights of one leaf: drop takes the lowest-scored active ones, grow the highest-scored inactive ones.

A criterion is a function ``score(leaf) -> array`` of the shape of the leaf. Scores of the other weights (inactive ones
when dropping, active ones when growing) are ignored, so a criterion need not mask anything. NaN ranks below every
number. With w = weight and g = gradient of the loss with respect to the masked weight:

====================  ==========================  =====================================================
drop                  score                       source
====================  ==========================  =====================================================
``magnitude``         abs(w)                      RigL (Evci et al., 2020)
``set``               abs(w), each sign apart     SET as Nowak et al. have it: equal numbers of both signs
``set_fraction``      abs(w), each sign apart     SET (Mocanu et al., 2018): the same fraction of both signs
``mest``              abs(w) + lambda * abs(g)    MEST (Yuan et al., 2021)
``sensitivity``       abs(g) / abs(w)             Nowak et al., "Fantastic weights", 2023
``rsensitivity``      abs(w) / abs(g)             the same, reciprocal
``snip``              abs(w * g)                  Lee et al., 2019
``snip_signed``       - w * g                     the same, whose removal lowers the loss most goes first
``taylor``            (w * g)^2                   Molchanov et al., 2019
``gradient_step``     abs(w - g)                  magnitude after one more step
``random``            uniform
====================  ==========================  =====================================================

====================  ==========================  =====================================================
grow                  score                       source
====================  ==========================  =====================================================
``random``            uniform                     SET
``gradient``          abs(g)                      RigL
``dst_ee``            abs(g) + c ln t / (N + e)   DST-EE, Eq. 1
``balanced``          abs(m) / sqrt(r c)          rows and columns on one scale, see :func:`balanced`
``momentum``          abs(average of g)           SNFS (Dettmers and Zettlemoyer, 2019); methods that keep one
``one_neighbour``     uniform, next to an active  Scholte, "Regrowing strategies", 2022
``most_neighbours``   active ones among 8 around  the same
====================  ==========================  =====================================================
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.widening import wide
from dstjax.checks import check_bool, check_choice, check_number, suggest
from dstjax.criteria.balanced import AliveFirst, among_share, balanced, in_units
from dstjax.criteria.balanced import alive_first as alive_first
from dstjax.criteria.balanced import among as among
from dstjax.criteria.drawn import most_neighbours, one_neighbour, random
from dstjax.criteria.signs import set_fraction, set_signs
from dstjax.rules import Bound, Leaf, Value, bind, value

Criterion = Callable[[Leaf], jax.Array]


def magnitude(leaf: Leaf) -> jax.Array:
    """Scores abs(w), in the dtype of the weight."""
    return jnp.abs(leaf.weight)


def mest(lambda_: float = 1.0) -> Criterion:
    """abs(w) + lambda * abs(g).

    Raises:
      ValueError: lambda is negative or not finite.

    Reference: Yuan et al., "MEST: accurate and fast memory-economic sparse training framework on the edge", 2021. The
    paper gives no lambda; 1.0 is the default of the study of Nowak et al.
    """
    check_number("lambda_", lambda_, "a number >= 0", lambda v: 0 <= v < float("inf"))
    return bind(_mest, lambda_)


def _mest(lambda_: float, leaf: Leaf) -> jax.Array:
    return wide(jnp.abs(leaf.weight)) + lambda_ * wide(jnp.abs(leaf.gradient))


def sensitivity(leaf: Leaf) -> jax.Array:
    """Scores abs(g) / (abs(w) + 1e-8)."""
    return wide(jnp.abs(leaf.gradient)) / (wide(jnp.abs(leaf.weight)) + 1e-8)


def rsensitivity(leaf: Leaf) -> jax.Array:
    """Scores abs(w) / (abs(g) + 1e-8)."""
    return wide(jnp.abs(leaf.weight)) / (wide(jnp.abs(leaf.gradient)) + 1e-8)


def snip(leaf: Leaf) -> jax.Array:
    """Scores abs(w * g), the first-order change of the loss when the weight is removed."""
    return jnp.abs(wide(leaf.weight) * wide(leaf.gradient))


def snip_signed(leaf: Leaf) -> jax.Array:
    """Scores - w * g, so that the largest w * g go first.

    To first order the loss is lower by w * g without the weight.
    """
    return -wide(leaf.weight) * wide(leaf.gradient)


def taylor(leaf: Leaf) -> jax.Array:
    """Scores (w * g)**2, which ranks like ``snip`` except where it underflows."""
    return (wide(leaf.weight) * wide(leaf.gradient)) ** 2


def gradient_step(gamma: float = 1.0) -> Criterion:
    """Returns the score abs(w - gamma * g), the magnitude after a step of plain gradient descent.

    Raises:
      ValueError: gamma is negative or not finite.
    """
    check_number("gamma", gamma, "a number >= 0", lambda v: 0 <= v < float("inf"))
    return bind(_gradient_step, gamma)


def _gradient_step(gamma: float, leaf: Leaf) -> jax.Array:
    return jnp.abs(wide(leaf.weight) - gamma * wide(leaf.gradient))


def gradient(leaf: Leaf) -> jax.Array:
    """Scores abs(g), in the dtype of the gradient."""
    return jnp.abs(leaf.gradient)


@value
class DstEE(Value):
    """Scores abs(g) + c * ln(t) / (N + epsilon): exploitation plus exploration; see :func:`dst_ee`."""

    coefficient: float = 1e-3
    epsilon: float = 1.0
    signed: bool = False
    scale: str = "absolute"
    of: Criterion | None = None  # None: the gradient

    def __post_init__(self) -> None:
        """Checks the constants."""
        super().__post_init__()
        check_number("coefficient", self.coefficient, "a number >= 0", lambda v: 0 <= v < float("inf"))
        check_number("epsilon", self.epsilon, "a number > 0", lambda v: 0 < v < float("inf"))
        check_bool("signed", self.signed)
        check_choice("scale", self.scale, ("absolute", "gradient"))
        if self.signed and self.of is not None:
            raise ValueError(f"signed=True is not accepted with of={self.of!r}, a score without a sign; give one.")

    def __call__(self, leaf: Leaf) -> jax.Array:
        """Returns the score."""
        if leaf.counter is None:
            raise ValueError("the growth rule 'dst_ee' needs counters; make the method with counters=True.")
        g = wide(leaf.gradient if self.of is None else self.of(leaf))
        g = in_units(g, leaf) if self.scale == "gradient" else g
        bonus = self.coefficient * jnp.log(leaf.step.astype(g.dtype)) / (leaf.counter.astype(g.dtype) + self.epsilon)
        return jnp.abs(g + bonus) if self.signed else jnp.abs(g) + bonus

    def outweighs(self, gradients: jax.Array, step: Any) -> jax.Array:
        """Tells whether c is so large beside these gradients that growth is by the counters alone, bool[].

        Then a weight that was never active has at call ``step`` a bonus that is larger than the bonus of a weight that
        was, by more than the largest of the gradients. Never with scale='gradient', or in place of another score.
        """
        if self.scale == "gradient" or self.of is not None:
            return jnp.zeros((), bool)
        g = jnp.max(jnp.abs(wide(gradients)))
        gap = self.coefficient * jnp.log(jnp.asarray(step, g.dtype))
        return gap * (1 / self.epsilon - 1 / (1 + self.epsilon)) > g


def dst_ee(
    coefficient: float | None = None,
    epsilon: float = 1.0,
    *,
    signed: bool = False,
    scale: str = "absolute",
    of: str | Criterion | None = None,
) -> DstEE:
    """Returns the score abs(g) + c * ln(t) / (N + epsilon): exploitation plus exploration.

    Args:
      coefficient: c, the weight of exploration; 0 is RigL. By default 1e-3, and 0.3 with scale='gradient'.
      epsilon: keeps the bonus of a weight that was never active finite.
      signed: abs(g + bonus) instead, as Algorithm 1 and the code of the authors print it.
      scale: 'absolute', as in the paper: c has the unit of the gradient, and where it is larger than the gradients are,
        growth is by the counters alone. 'gradient': the root mean square of each layer's gradient is the unit.
      of: another growth criterion in place of abs(g), such as 'balanced'.

    Reference: Huang et al., "Dynamic sparse training via balancing the exploration-exploitation trade-off", 2023,
    Eq. 1.
    """
    if coefficient is None:
        coefficient = 0.3 if scale == "gradient" else 1e-3
    return DstEE(coefficient, epsilon, signed, scale, None if of is None else resolve("grow", of))


def momentum(leaf: Leaf) -> jax.Array:
    """Scores abs(m), where the method remembers an average m of the gradients of all weights.

    Raises:
      ValueError: the method does not.
    """
    if not isinstance(leaf.memory, jax.Array):
        raise ValueError(
            "the growth rule 'momentum' needs an average of the gradients; the methods 'balanced_momentum' and 'snfs' "
            "keep one."
        )
    return jnp.abs(leaf.memory)


DROP: dict[str, Callable[[], Criterion]] = {
    "magnitude": lambda: magnitude,
    "set": lambda: set_signs,
    "set_fraction": lambda: set_fraction,
    "mest": mest,
    "sensitivity": lambda: sensitivity,
    "rsensitivity": lambda: rsensitivity,
    "snip": lambda: snip,
    "snip_signed": lambda: snip_signed,
    "taylor": lambda: taylor,
    "gradient_step": gradient_step,
    "random": lambda: random,
}
GROW: dict[str, Callable[[], Criterion]] = {
    "random": lambda: random,
    "gradient": lambda: gradient,
    "dst_ee": dst_ee,
    "balanced": lambda: balanced,
    "momentum": lambda: momentum,
    "one_neighbour": lambda: one_neighbour,
    "most_neighbours": lambda: most_neighbours,
}


def resolve(role: str, criterion: Any) -> Criterion:
    """Returns the criterion of a name, or the function itself; ``role`` is 'drop' or 'grow'.

    Raises:
      ValueError: an unknown name, or what is neither a name nor a function.
    """
    table = DROP if role == "drop" else GROW
    if isinstance(criterion, str) and criterion in table:
        return table[criterion]()
    if callable(criterion):
        return criterion
    raise ValueError(f"{role}={criterion!r} is not known; {suggest(criterion, table)} A function score(leaf) is too.")


def reads_counter(criterion: Criterion) -> bool:
    """Whether a criterion needs counters: DST-EE's does, and every function of the user's may."""
    if isinstance(criterion, AliveFirst):
        return reads_counter(criterion.score)
    if isinstance(criterion, Bound) and criterion.function is among_share:
        return reads_counter(criterion.parameters[1])
    return getattr(criterion, "function", criterion) not in _WITHOUT_COUNTER


def reads_gradient(criterion: Criterion, remembers: bool = False) -> bool:
    """Whether a growth criterion may read the gradient, given whether the method remembers an average of it."""
    if isinstance(criterion, AliveFirst):
        return reads_gradient(criterion.score, remembers)
    if isinstance(criterion, Bound) and criterion.function is among_share:
        return reads_gradient(criterion.parameters[1], remembers)
    if criterion is balanced:
        return not remembers
    return criterion not in (random, momentum, one_neighbour, most_neighbours)


_WITHOUT_COUNTER = (
    *(magnitude, set_signs, set_fraction, sensitivity, rsensitivity, snip, snip_signed, taylor, random, gradient),
    *(momentum, balanced, one_neighbour, most_neighbours, _mest, _gradient_step),
)
