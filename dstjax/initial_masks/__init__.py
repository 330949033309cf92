"""Chooses which weights are active at first.

:func:`random_masks` is what :func:`dstjax.sparsify` draws. The other rules look at the weights, the data or the network
before the first step, and return masks for :func:`dstjax.set_masks`: a tree like the parameters, boolean at the masked
leaves and None at the dense ones. With w = weight, g = gradient of the loss and H its Hessian they keep the largest:

==================  =======================  ==========================================================
rule                score                    source
==================  =======================  ==========================================================
``magnitude``       abs(w)                   Han et al., 2015
``snip``            abs(w * g)               Lee et al., 2019
``grasp``           w * Hg                   Wang et al., 2020
``synflow``         abs(w * dR/dw)           Tanaka et al., 2020; R is a flow through the network, no data
``iterative_snip``  abs(w * g) of survivors  de Jorge et al., 2021
``force``           abs(w * g) of all        de Jorge et al., 2021
==================  =======================  ==========================================================

:func:`sis` (Verma and Pesquet, 2021) sparsifies a trained network and changes its weights too.

What they share. ``distribution=`` divides the sparsity over the leaves with ``scope='layer'`` ('erk' if None), and
``maskable=`` says which leaves get masks: ``(path, leaf) -> bool``, by default what ``layout=``, or the name, calls a
weight (:mod:`dstjax.layouts`); a leaf that stacks several layers is ranked layer by layer.
``scope='layer'`` gives each leaf the exact count of its distribution ('erk' unless another is given);
``scope='global'`` ranks all leaves together: N - floor(sparsity * N) of the N weights stay, at least one in each leaf.
Of equal scores the lower row-major index wins, and the earlier leaf. A score that is not finite is refused; under a
trace, where nobody can look, NaN ranks lowest. Masks are sharded like their weights.
"""

from dstjax._engine.draw import random_masks
from dstjax.initial_masks.flow import synflow
from dstjax.initial_masks.rounds import force, iterative_snip
from dstjax.initial_masks.saliency import grasp, magnitude, snip
from dstjax.initial_masks.subdifferential import Activations, Sparsified, sis

__all__ = [
    "Activations",
    "Sparsified",
    "force",
    "grasp",
    "iterative_snip",
    "magnitude",
    "random_masks",
    "sis",
    "snip",
    "synflow",
]
