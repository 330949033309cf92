"""What is switched as one unit: single weights, N of every M, blocks, filters, heads, a neuron's inputs, channels.

A structure turns scores into masks. It counts in weights, so that a method says the same numbers whatever the
structure. Each one has these functions, on lists of leaves:

* ``counts(shapes, counts)``: the nearest numbers of active weights that each layer can have, at most as many as asked
  for; shapes are those of layers, (window..., in, out);
* ``best(scores, counts, layouts)``: the masks of the highest scores;
* ``drop(scores, masks, keep, salient, target, layouts)``: the masks of what stays, and of where something may be grown;
* ``grow(scores, kept, room, n, layouts)``: the masks of what is grown.

And it says of itself what :class:`Structure` lists. It may have besides:

* ``holds(masks, prunes, layouts)``: whether the masks of each leaf are of this structure; else they are not asked;
* ``density``: the share of weights that is active whatever the method asks for;
* ``across_leaves``: True where its units lie in several leaves, whose budget is its own;
* ``covers(path, leaf)``: which leaves are masked, where that follows from the units.

``keep`` and ``n`` are int32[layers], or scalars that are shared by all leaves in one ranking. ``layouts`` says for each
leaf what its axes mean (:mod:`dstjax.layouts`); where it is left out a leaf is (window..., in, out). Among equal scores
the first in the order of the layer wins.
"""

from dstjax.structures.blocks import BalancedBlock, Block, block
from dstjax.structures.channels import Channels, channels
from dstjax.structures.groups import NM, n_m
from dstjax.structures.neurons import FanIn, fan_in
from dstjax.structures.units import Units, filters, heads
from dstjax.structures.weights import WEIGHT, Structure, Weight

__all__ = [
    "NM",
    "WEIGHT",
    "BalancedBlock",
    "Block",
    "Channels",
    "FanIn",
    "Structure",
    "Units",
    "Weight",
    "block",
    "channels",
    "fan_in",
    "filters",
    "heads",
    "n_m",
]
