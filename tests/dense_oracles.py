"""Methods that start dense or keep dense weights, in float64 NumPy from their equations. Nothing here imports dstjax.

Each run has ``w``, the weights of all leaves by name; ``m``, the masks of the masked ones; ``moments`` of the
optimiser; ``seen()``, the weights that the forward pass sees; and ``step(g)``, one call with the gradients at those.
"""

import math
from fractions import Fraction

import numpy as np

from tests.oracles import best, best_together


def cubic(t, begin, last):
    """Zhu and Gupta: how much of the way is gone after the update at step t, exactly; 1 from ``last`` on."""
    left = 1 - Fraction(t - begin, last - begin)
    return 1 - max(left, Fraction(0)) ** 3


def between(dense, sparse, progress):
    """Weights that are left when ``progress`` of the surplus has been pruned, rounded to more weights."""
    return dense - math.floor(progress * (dense - sparse))


def largest(w, counts, where, together=False):
    """The largest weights of each leaf, ``counts[name]``; together: as many in all, one of each leaf at least."""
    size = {n: np.abs(w[n]) for n in where}
    if not together:
        return {n: best(size[n], counts[n], where[n]) for n in where}
    first = {n: best(size[n], 1, where[n]) for n in where}
    others = [where[n] & ~first[n] for n in where]
    rest = best_together([size[n] for n in where], sum(counts.values()) - len(where), others)
    return {n: first[n] | r for n, r in zip(where, rest, strict=True)}


def n_of_m(w, n, m):
    """The n largest of every m along the last axis but one, one group after the other."""
    mask = np.zeros(w.shape, bool)
    columns = np.moveaxis(np.abs(w), -2, -1)
    for at in np.ndindex(columns.shape[:-1]):
        for start in range(0, columns.shape[-1], m):
            order = sorted(range(start, start + m), key=lambda i: (-columns[at][i], i))
            for i in order[:n]:
                mask[(*at[:-1], i, at[-1])] = True
    return mask


def soft(w, threshold):
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)


def sigmoid(s):
    return 1 / (1 + math.exp(-s))


class Run:
    """The step of a method whose weights are zero where its masks are; masks change after the optimiser's step."""

    def __init__(self, weights, masks, inner, targets, *, period=1, start=0, end=math.inf):
        self.w = {n: np.array(w, np.float64) for n, w in weights.items()}
        self.m = {n: np.array(m) for n, m in masks.items()}
        self.first_m = self.m
        self.inner, self.moments, self.t = inner, inner.init(self.w), 0
        self.targets, self.period, self.start, self.end = targets, period, start, end
        self.updates = 0
        self.last = max(t for t in range(1, end) if self.due(t)) if end < math.inf else None

    def due(self, t):
        return t % self.period == 0 and self.start <= t < self.end

    def seen(self):
        return dict(self.w)

    def step(self, gradients, full=None):
        self.t += 1
        self.inner.begin()
        before = dict(self.w)
        for n, g in gradients.items():
            rule = self.gradient(n, g, None if full is None else full[n]) if n in self.m else self.bias(n, g, full)
            moved = before[n] + self.inner.step(self.moments, n, rule)
            self.w[n] = np.where(self.trained(n), moved, before[n]) if n in self.m else moved
        self.after_step()
        if self.due(self.t):
            self.update(gradients)
            self.updates += 1

    def bias(self, n, g, full):
        """What the optimiser sees of a leaf without a mask."""
        return g

    def gradient(self, n, g, full):
        """What it sees of a masked one."""
        return np.where(self.m[n], g, 0.0)

    def trained(self, n):
        return self.m[n]

    def after_step(self):
        pass

    def choose(self, new):
        """New masks: what is dropped or grown is zero, moments and all; what is both keeps everything."""
        for n in new:
            stays = self.m[n] & new[n]
            self.w[n] = np.where(stays, self.w[n], 0.0)
            for moment in self.moments.values():
                moment[n] = np.where(stays, moment[n], 0.0)
        self.m = new

    def everywhere(self):
        return {n: np.ones(m.shape, bool) for n, m in self.m.items()}

    def counts(self, progress):
        return {n: between(m.sum(), self.targets[n], progress) for n, m in self.first_m.items()}


# --- From dense to sparse -------------------------------------------------------------------------------------------


class GMP(Run):
    """Keep the top 1 - s_t by |W| of what is left."""

    def __init__(self, *args, together=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.together = together

    def update(self, gradients):
        self.choose(largest(self.w, self.counts(cubic(self.t, self.start, self.last)), self.m, self.together))


class OneShot(Run):
    """Keep the top 1 - s by |W| once; ``n_m``: the n largest of every m instead."""

    def __init__(self, *args, together=False, n_m=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.together, self.n_m = together, n_m

    def update(self, gradients):
        if self.n_m:
            self.choose({n: n_of_m(self.w[n], *self.n_m) for n in self.m})
        else:
            self.choose(largest(self.w, self.targets, self.m, self.together))


class GraNet(Run):
    """Prune all layers together, then drop ceil(rho_t * a) of each and grow as many by |g|."""

    def __init__(self, *args, rho, until=None, together=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.rho, self.together = rho, together
        until = self.end if until is None else until
        self.pruned = max(t for t in range(1, until) if self.due(t))

    def update(self, gradients):
        dense = sum(int(m.sum()) for m in self.first_m.values())
        total = between(dense, sum(self.targets.values()), cubic(self.t, self.start, self.pruned))
        pruned = largest(self.w, {"all": total}, self.m, together=True)
        rho = 0.005 + (self.rho - 0.005) / 2 * (1 + math.cos(math.pi * self.t / self.end))
        moving = {n: min(math.ceil(rho * m.sum() - 1e-9), int(m.sum()) - 1) for n, m in pruned.items()}
        kept = largest(self.w, {n: int(m.sum()) - moving[n] for n, m in pruned.items()}, self.m, self.together)
        self.choose({n: k | best(np.abs(gradients[n]), moving[n], ~k) for n, k in kept.items()})


class GaP(Run):
    """Prune every leaf to its target, then give those of the next part all their weights back."""

    def __init__(self, *args, partitions, **kwargs):
        super().__init__(*args, **kwargs)
        self.parts = [list(p) for p in partitions]  # names of the leaves of each part

    def update(self, gradients):
        new = largest(self.w, self.targets, self.m)
        if self.t < self.last:
            for n in self.parts[self.updates % len(self.parts)]:
                new[n] = np.ones_like(new[n])
        self.choose(new)


class ADMM(Run):
    """The first update begins with Z = P(W), U = 0; the next ones move Z and U; the last one prunes."""

    def __init__(self, *args, rho, **kwargs):
        super().__init__(*args, **kwargs)
        self.rho, self.z, self.u = rho, None, None

    def gradient(self, n, g, full):
        g = np.where(self.m[n], g, 0.0)
        return g if self.z is None else g + self.rho * (self.w[n] - self.z[n] + self.u[n])

    def project(self, x):
        inside = largest(x, self.targets, self.everywhere())
        return {n: np.where(inside[n], x[n], 0.0) for n in self.m}

    def update(self, gradients):
        if self.t == self.last:
            self.choose(largest(self.w, self.targets, self.m))
            self.z = self.u = None
        elif self.z is None:
            self.z, self.u = self.project(self.w), {n: np.zeros_like(self.w[n]) for n in self.m}
        else:
            self.z = self.project({n: self.w[n] + self.u[n] for n in self.m})
            self.u = {n: self.u[n] + self.w[n] - self.z[n] for n in self.m}


# --- Dense weights behind the masks ---------------------------------------------------------------------------------


class Shadow(Run):
    """All weights are trained and none is ever set to zero; the forward pass sees those of the mask."""

    def seen(self):
        return {n: np.where(self.m[n], w, 0.0) if n in self.m else w for n, w in self.w.items()}

    def gradient(self, n, g, full):
        return g

    def trained(self, n):
        return True

    def choose(self, new):
        self.m = new


class DPF(Shadow):
    """The largest of all weights at the sparsity of the cubic schedule."""

    def __init__(self, *args, together=True, until=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.together = together
        until = self.end if until is None else until
        self.reached = max(t for t in range(1, until) if self.due(t))

    def update(self, gradients):
        counts = self.counts(cubic(self.t, self.start, self.reached))
        self.choose(largest(self.w, counts, self.everywhere(), self.together))


class DCIL(DPF):
    """Active weights learn from the sparse network, the others from the full one, the rest from both."""

    def gradient(self, n, g, full):
        return np.where(self.m[n], g, full)

    def bias(self, n, g, full):
        return g + full[n]


class TopKAST(Shadow):
    """A sees the forward pass, B is trained; a penalty pulls A by w and the rest of B by w / D."""

    def __init__(self, *args, exploration, penalty, **kwargs):
        super().__init__(*args, **kwargs)
        self.exploration, self.penalty = exploration, penalty
        self.update(None)

    def update(self, gradients):
        self.choose(largest(self.w, self.targets, self.everywhere()))
        wider = {n: k + math.floor(self.exploration * k) for n, k in self.targets.items()}
        self.b = largest(self.w, wider, self.everywhere())

    def gradient(self, n, g, full):
        density = self.m[n].mean()
        pull = np.where(self.m[n], self.w[n], self.w[n] / density)
        return np.where(self.b[n], g + self.penalty * pull, 0.0)

    def trained(self, n):
        return self.b[n]

    def after_step(self):
        for moment in self.moments.values():
            for n in self.m:
                moment[n] = np.where(self.b[n], moment[n], 0.0)


class STR(Shadow):
    """W_eff = sign(W) relu(|W| - sigmoid(s)), with s learned; at the end the largest weights stay as they are seen."""

    def __init__(self, *args, s, rate, decay, **kwargs):
        super().__init__(*args, **kwargs)
        self.s = dict.fromkeys(self.m, s)
        self.rate, self.decay, self.fixed = rate, decay, False

    def seen(self):
        if self.fixed:
            return super().seen()
        return {n: soft(w, sigmoid(self.s[n])) if n in self.m else w for n, w in self.w.items()}

    def step(self, gradients, full=None):
        self.slope = {}
        for n, s in self.s.items():
            through = np.sum(np.sign(self.w[n]) * self.passes(n) * gradients[n])
            self.slope[n] = -sigmoid(s) * (1 - sigmoid(s)) * through + self.decay * s
        super().step(gradients, full)

    def passes(self, n):
        return self.m[n] if self.fixed else np.abs(self.w[n]) > sigmoid(self.s[n])

    def gradient(self, n, g, full):
        return np.where(self.passes(n), g, 0.0)

    def after_step(self):
        self.s = {n: self.s[n] - self.rate * self.slope[n] for n in self.s}

    def update(self, gradients):
        if self.t == self.last:
            seen = self.seen()
            self.choose(largest(self.w, self.targets, self.everywhere()))
            self.w.update({n: np.where(self.m[n], seen[n], 0.0) for n in self.m})
            self.fixed = True
        else:
            self.choose({n: self.passes(n) for n in self.m})


class SRSTE(Shadow):
    """The n largest of every m anew after every step; the others decay."""

    def __init__(self, *args, n_m, decay, **kwargs):
        super().__init__(*args, **kwargs)
        self.n_m, self.decay = n_m, decay
        self.update(None)

    def gradient(self, n, g, full):
        return g + self.decay * np.where(self.m[n], 0.0, self.w[n])

    def update(self, gradients):
        self.choose({n: n_of_m(self.w[n], *self.n_m) for n in self.m})
