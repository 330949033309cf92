"""Joins labels of indices into groups: union-find on whole arrays at once."""

import numpy as np

Ints = np.ndarray  # int64
FIXED = 0  # the group that cannot be removed


class Labels:
    """Groups of labels; the smallest label of a group stands for it, so that what is joined with 0 is fixed."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._size = 1

    def fresh(self, n: int) -> Ints:
        """Returns new labels for the indices of an axis; an axis of one index is fixed."""
        if n == 1:
            return np.zeros(1, np.int64)
        first, self._size = self._size, self._size + n
        if self._size > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros(max(n, len(self._parent)), np.int64)])
        self._parent[first : self._size] = np.arange(first, self._size)
        return np.arange(first, self._size)

    def roots(self, labels: Ints) -> Ints:
        """Returns the label that stands for the group of each."""
        found = self._parent[labels]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                self._parent[labels] = found
                return found
            found = above

    def join(self, a: Ints, b: Ints) -> None:
        """Joins the groups of labels pair by pair."""
        while True:
            x, y = self.roots(a), self.roots(b)
            different = x != y
            if not different.any():
                return
            a, b, x, y = a[different], b[different], x[different], y[different]
            np.minimum.at(self._parent, np.maximum(x, y), np.minimum(x, y))

    def free(self, labels: Ints) -> np.ndarray:
        """Whether each label could be removed, bool."""
        return self.roots(labels) != FIXED

    def __len__(self) -> int:
        """Returns the number of labels."""
        return self._size
