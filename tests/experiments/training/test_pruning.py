"""Masks that are made before the first step: in one ranking over all layers, or with a count for each."""

import numpy as np
import pytest

import dstjax
from experiments.training import configuration
from experiments.training.run import make_trainer
from tests.thorough import slow


def densities(config):
    """The share of active weights of each layer of the first network, before any step."""
    trainer = make_trainer(config, configuration.plan(config))
    masks = dstjax.masks.by_name(dstjax.get_masks(trainer.network(0).opt_state))
    return np.array([np.asarray(m).mean() for m in masks.values() if m is not None])


@pytest.mark.parametrize("method", ["snip", slow("grasp"), slow("synflow"), slow("force"), slow("iterative_snip")])
def test_a_distribution_that_is_given_is_kept(method, small):
    uniform = densities(small(method=method, distribution="uniform"))
    np.testing.assert_allclose(uniform, 0.2, atol=0.005)  # a layer rounds once
    together = densities(small(method=method))
    assert abs(together - 0.2).max() > 0.02


def test_what_the_methods_say_of_their_start():
    for name in ("snip", "grasp", "synflow", "iterative_snip", "force"):
        alone, named = (
            dstjax.methods.get(name, sparsity=0.8),
            dstjax.methods.get(name, sparsity=0.8, distribution="uniform"),
        )
        assert (alone.start.scope, alone.promises) == ("global", "total")
        assert (named.start.scope, named.promises, named.masking.distribution) == ("layer", "kept", "uniform")
    with pytest.raises(ValueError, match="scope='all' is not known"):
        dstjax.method.Start(pruner="snip", scope="all")
