"""The equations in float64 NumPy, written for reading and not for speed. Nothing here imports dstjax."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np


def best(score, k, where=None):
    """Marks the k highest scores; NaN is lowest of all, and of equal scores the lower row-major index wins."""
    score = np.asarray(score)
    where = np.ones(score.shape, bool) if where is None else np.asarray(where)
    flat = score.ravel()
    if flat.dtype.kind in "fV":  # V: bfloat16
        with np.errstate(invalid="ignore"):  # signalling NaN
            value = flat.astype(np.float64)
        nan = np.isnan(value)
        value = np.where(nan, 0.0, value)
        rank = np.lexsort((np.arange(flat.size), -value, nan, ~where.ravel()))
    else:
        value = np.array([-int(x) for x in flat], dtype=object)
        order = sorted(range(flat.size), key=lambda i: (not where.ravel()[i], value[i], i))
        rank = np.array(order, int)
    k = max(0, min(int(k), int(where.sum())))
    mask = np.zeros(flat.size, bool)
    mask[rank[:k]] = True
    return mask.reshape(score.shape)


def best_together(scores, k, wheres):
    """The k best of several tensors in one ranking, earlier tensors first among equals."""
    flat = np.concatenate([np.ravel(s) for s in scores])
    where = np.concatenate([np.ravel(w) for w in wheres])
    mask = best(flat, k, where)
    cuts = np.cumsum([np.size(s) for s in scores])[:-1]
    return [m.reshape(np.shape(s)) for m, s in zip(np.split(mask, cuts), scores, strict=True)]


def share(count, fraction, ceil=False):
    """floor or ceil of the decimal that a person typed: 0.29 of 100 is 29."""
    exact = Fraction(str(fraction)) * count
    return math.ceil(exact) if ceil else math.floor(exact)


# --- Scores -------------------------------------------------------------------------------------------------------


def drop_score(name, w, g, lam=1.0):
    return {
        "magnitude": lambda: np.abs(w),
        "mest": lambda: np.abs(w) + lam * np.abs(g),
        "sensitivity": lambda: np.abs(g) / (np.abs(w) + 1e-8),
        "rsensitivity": lambda: np.abs(w) / (np.abs(g) + 1e-8),
        "snip": lambda: np.abs(w * g),
    }[name]()


def keep_after_set(w, mask, k, fraction=False):
    """SET: zeros go first, then of both signs equally many, or the same fraction, of the weights nearest to zero."""
    zero, positive, negative = (mask & (np.sign(w) == s) for s in (0, 1, -1))
    from_zero = min(k, int(zero.sum()))
    left = k - from_zero
    half = (left + 1) // 2
    if fraction:
        half = left * int(positive.sum()) // max(int((positive | negative).sum()), 1)
    from_positive = min(half, int(positive.sum()))
    from_negative = min(left - from_positive, int(negative.sum()))
    from_positive = left - from_negative  # takes the rest where the negatives ran out
    size = np.abs(w)
    return (
        best(size, zero.sum() - from_zero, zero)
        | best(size, positive.sum() - from_positive, positive)
        | best(size, negative.sum() - from_negative, negative)
    )


def dst_ee_score(g, counter, step, c, epsilon=1.0, signed=False):
    bonus = c * math.log(step) / (counter.astype(np.float64) + epsilon)
    return np.abs(g + bonus) if signed else np.abs(g) + bonus


def fraction_at(schedule, alpha, step, end):
    if callable(schedule):
        return schedule(step)
    return {
        "constant": lambda: alpha,
        "linear": lambda: alpha * (1 - step / end),
        "cosine": lambda: alpha / 2 * (1 + math.cos(math.pi * step / end)),
        "cosine_floor": lambda: 0.005 + (alpha - 0.005) / 2 * (1 + math.cos(math.pi * step / end)),
    }[schedule]()


PI = Fraction("3.14159265358979323846264338327950288419716939937510")


def exact_decay(name, step, end):
    """What a schedule leaves of the drop fraction, to 45 decimals or exactly."""
    p = Fraction(step, end)
    if name == "linear":
        return 1 - p
    if name == "stages":
        return Fraction(1) if p < Fraction(3, 4) else Fraction(1, 2)
    with localcontext(prec=60):
        if name == "exponential":
            return Fraction((Decimal("0.01").ln() * p.numerator / p.denominator).exp())
        angle = Decimal(PI.numerator) / PI.denominator * p.numerator / p.denominator
        cosine, term, k = Decimal(1), Decimal(1), 0
        while abs(term) > Decimal(10) ** -50:
            k += 2
            term = -term * angle * angle / (k * (k - 1))
            cosine += term
        return Fraction((1 + cosine) / 2)


def exact_share(name, alpha, step, end):
    """The share of the decimal that was typed at a step, to 45 decimals or exactly."""
    alpha = Fraction(str(alpha))
    floor = min(Fraction("0.005"), alpha) if name == "cosine_floor" else 0
    return alpha if name == "constant" else floor + (alpha - floor) * exact_decay(name, step, end)


# --- Inner optimisers -----------------------------------------------------------------------------------------------


class Momentum:
    """m <- mu * m + g; w <- w - lr * m (nesterov: w <- w - lr * (g + mu * m))."""

    def __init__(self, lr, mu, nesterov=False):
        self.lr, self.mu, self.nesterov = lr, mu, nesterov

    def init(self, weights):
        return {"trace": {n: np.zeros_like(w) for n, w in weights.items()}}

    def step(self, moments, n, g):
        m = moments["trace"][n] = self.mu * moments["trace"][n] + g
        return -self.lr * (g + self.mu * m if self.nesterov else m)

    def begin(self):
        pass


class Adam:
    """Adam with bias correction by the number of steps."""

    def __init__(self, lr, b1=0.9, b2=0.999, eps=1e-8, decay=0.0):
        self.lr, self.b1, self.b2, self.eps, self.decay = lr, b1, b2, eps, decay
        self.count = 0

    def init(self, weights):
        return {k: {n: np.zeros_like(w) for n, w in weights.items()} for k in ("mu", "nu")}

    def begin(self):
        self.count += 1

    def step(self, moments, n, g):
        mu = moments["mu"][n] = self.b1 * moments["mu"][n] + (1 - self.b1) * g
        nu = moments["nu"][n] = self.b2 * moments["nu"][n] + (1 - self.b2) * g**2
        return -self.lr * (mu / (1 - self.b1**self.count)) / (np.sqrt(nu / (1 - self.b2**self.count)) + self.eps)


# --- The engine -----------------------------------------------------------------------------------------------------


class Transcript:
    """One run of a method, step by step, from given weights and masks.

    ``drop`` and ``grow`` are names, or functions (step, leaf name) -> scores, for scores that someone else drew.
    """

    def __init__(
        self,
        weights,
        masks,
        inner,
        *,
        period,
        start=0,
        end=None,
        alpha=0.3,
        schedule="cosine",
        ceil=False,
        drop="magnitude",
        grow="gradient",
        scope="layer",
        order="skip",
        lam=1.0,
        c=0.0,
        epsilon=1.0,
        signed=False,
    ):
        self.w = {n: np.array(w, np.float64) for n, w in weights.items()}
        self.m = {n: np.array(m) for n, m in masks.items()}
        self.counter = {n: m.astype(np.int64) for n, m in self.m.items()}
        self.ever = {n: m.copy() for n, m in self.m.items()}
        self.inner, self.moments, self.t = inner, inner.init(self.w), 0
        self.period, self.start, self.end = period, start, math.inf if end is None else end
        self.alpha, self.schedule, self.ceil = alpha, schedule, ceil
        self.drop, self.grow, self.scope, self.order = drop, grow, scope, order
        self.lam, self.c, self.epsilon, self.signed = lam, c, epsilon, signed
        self.updates = 0
        self.grown = {n: np.zeros_like(m) for n, m in self.m.items()}
        self.survival, self.error = float("nan"), 0.0

    def step(self, gradients):
        """The t-th call with the dense gradients of all leaves."""
        self.t += 1
        t = self.t
        if not (self.period and t % self.period == 0 and self.start <= t < self.end):
            self.train(gradients)
        elif self.order == "skip":
            self.inner.begin()  # its count goes on, its moments stay
            self.rewire(gradients)
        elif self.order == "step_then_update":
            self.train(gradients)
            self.rewire(gradients)
        else:
            self.rewire(gradients)
            self.train(gradients)

    def train(self, gradients):
        self.inner.begin()
        for n, g in gradients.items():
            mask = self.m.get(n, np.ones(np.shape(g), bool))
            moved = self.w[n] + self.inner.step(self.moments, n, np.where(mask, g, 0.0))
            self.w[n] = np.where(mask, moved, 0.0)

    def rewire(self, gradients):
        t, old = self.t, self.m
        rho = fraction_at(self.schedule, self.alpha, t, self.end)
        rounded = math.ceil if self.ceil else math.floor
        nudge = -1e-9 if self.ceil else 1e-9
        k = {n: min(rounded(rho * m.sum() + nudge), int(m.sum()) - 1) for n, m in old.items()}
        kept = self.kept(old, k, gradients)
        new = {}
        for n, m in old.items():
            scores = self.grow_scores(n, gradients[n], t)
            new[n] = kept[n] | best(scores, m.sum() - kept[n].sum(), ~kept[n])
        # Figures of the update, before anything is overwritten.
        self.survival = self.survival_of(kept)
        squares = sum(np.sum(self.w[n] ** 2) for n in old)
        self.error = sum(np.sum(np.where(new[n], 0.0, self.w[n] ** 2)) for n in old) / squares
        self.grown = {n: new[n] & ~old[n] for n in old}
        for n in old:
            stays = old[n] & new[n]
            self.w[n] = np.where(stays, self.w[n], 0.0)
            for moment in self.moments.values():
                moment[n] = np.where(stays, moment[n], 0.0)
            self.counter[n] = self.counter[n] + new[n]
            self.ever[n] = self.ever[n] | new[n]
        self.m = new
        self.updates += 1

    def kept(self, old, k, gradients):
        if self.drop == "set_fraction":
            return {n: keep_after_set(self.w[n], m, k[n], fraction=True) for n, m in old.items()}
        if self.drop == "set":
            return {n: keep_after_set(self.w[n], m, k[n]) for n, m in old.items()}
        scores = {
            n: self.drop(self.t, n) if callable(self.drop) else drop_score(self.drop, self.w[n], gradients[n], self.lam)
            for n in old
        }
        if self.scope == "layer":
            return {n: best(scores[n], m.sum() - k[n], m) for n, m in old.items()}
        first = {n: best(scores[n], 1, m) for n, m in old.items()}
        left = sum(m.sum() - k[n] for n, m in old.items()) - len(old)
        others = best_together(list(scores.values()), left, [old[n] & ~first[n] for n in old])
        return {n: first[n] | other for n, other in zip(old, others, strict=True)}

    def grow_scores(self, n, g, t):
        if callable(self.grow):
            return self.grow(t, n)
        if self.grow == "dst_ee":
            return dst_ee_score(g, self.counter[n], t, self.c, self.epsilon, self.signed)
        return np.abs(g)

    def survival_of(self, kept):
        grown = sum(int(m.sum()) for m in self.grown.values())
        survived = sum(int((m & kept[n]).sum()) for n, m in self.grown.items())
        return survived / grown if grown else float("nan")

    def exploration(self):
        return sum(int(e.sum()) for e in self.ever.values()) / sum(e.size for e in self.ever.values())
