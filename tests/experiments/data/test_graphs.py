import tracemalloc

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from experiments.data import graphs
from experiments.data.edges import Edges


def edges(pairs: list[tuple[int, int]], nodes: int, timed: bool = True) -> Edges:
    array = np.array(pairs, np.int32).reshape(-1, 2)
    time = np.linspace(0, 1, len(array)) if timed else None
    return Edges(array[:, 0].copy(), array[:, 1].copy(), time, nodes)


@hypothesis.given(st.integers(5, 200), st.integers(0, 100), st.booleans())
@hypothesis.settings(max_examples=50)
def test_splits(m, seed, timed):
    graph = edges([(i % 7, (i + 1) % 7) for i in range(m)], 7, timed)
    found = graphs.split(graph, seed)
    fifth = m // 5
    assert [len(part) for part in found] == [3 * fifth, fifth, fifth]
    assert len({*np.concatenate(found)}) == 5 * fifth
    if timed:
        assert found.test.tolist() == list(range(m - fifth, m))
    else:  # whatever the seed
        assert found.test.tolist() == graphs.split(graph, seed + 1).test.tolist()
    loose = graphs.split(graph, seed, "reference-code")
    assert [len({*part}) for part in loose] == [3 * fifth, fifth, fifth]
    assert not {*loose.test} & {*loose.train, *loose.validation}


def test_the_sizes_of_the_paper():
    for m, train, test in ((7_833_140, 4_699_884, 1_566_628), (1_148_072, 688_842, 229_614)):
        fifth = m // 5
        assert (3 * fifth, fifth) == (train, test)


def test_the_validation_of_the_released_code_shares_edges_with_training():
    graph = edges([(i % 7, (i + 1) % 7) for i in range(200)], 7)
    loose, strict = graphs.split(graph, 0, "reference-code"), graphs.split(graph, 0)
    assert {*loose.validation} & {*loose.train}
    assert not {*strict.validation} & {*strict.train}
    assert graphs.split(graph, 1).train.tolist() != strict.train.tolist()


def test_too_few_edges():
    with pytest.raises(ValueError, match="graph of 4 edges cannot be split"):
        graphs.split(edges([(0, 1)] * 4, 2), 0)


def test_negatives_are_no_edges(monkeypatch):
    monkeypatch.setattr(graphs, "CHUNK", 1000)
    rng = np.random.default_rng(0)
    graph = edges(rng.integers(0, 60, (4000, 2)).tolist(), 60)  # about two thirds of all pairs
    found = graphs.negatives(graph, 0)
    known = {*zip(graph.source.tolist(), graph.target.tolist(), strict=True)}
    assert not known & {tuple(pair) for pair in found.tolist()}
    assert (found[:, 0] != found[:, 1]).all()
    np.testing.assert_array_equal(found, graphs.negatives(graph, 0))
    assert (found != graphs.negatives(graph, 1)).any()


def test_half_of_the_negatives_keep_their_source():
    graph = graphs.block_model(5000, 4000, seed=0)
    found = graphs.negatives(graph, 0)
    assert abs((found[:, 0] == graph.source).mean() - 0.5) < 0.05
    assert abs((found[:, 1] == graph.target).mean()) < 0.01
    assert len({*found[:, 1].tolist()}) > 2000


def test_a_graph_too_dense_for_negatives():
    everything = edges([(i, j) for i in range(4) for j in range(4)], 4)
    with pytest.raises(ValueError, match=r"finds no pair without an edge.*16 different edges of 4 nodes"):
        graphs.negatives(everything, 0)


def test_the_block_model():
    found = graphs.block_model(800, 20_000, seed=3, blocks=4, inside=0.9, exponent=2.2)
    again = graphs.block_model(800, 20_000, seed=3, blocks=4, inside=0.9, exponent=2.2)
    np.testing.assert_array_equal(found.source, again.source)
    np.testing.assert_array_equal(found.target, again.target)
    assert (found.source != graphs.block_model(800, 20_000, seed=4).source).any()
    for ends in (found.source, found.target):
        assert (ends.min() >= 0, ends.max() < 800, ends.dtype) == (True, True, np.int32)
    assert (found.source != found.target).all()
    assert (np.diff(found.time) > 0).all()
    # Degrees of a power law: a few nodes have far more than their share.
    degree = np.sort(np.bincount(found.source, minlength=800))
    assert degree[-1] > 20 * np.median(degree)
    # Four communities: four values near the largest of the normalised adjacency, then a gap.
    adjacency = np.zeros((800, 800))
    np.add.at(adjacency, (found.source, found.target), 1)
    adjacency += adjacency.T
    root = 1 / np.sqrt(np.maximum(adjacency.sum(axis=1), 1))
    values = np.linalg.eigvalsh(root[:, None] * adjacency * root[None])[::-1]
    assert values[3] > 0.75
    assert values[4] < 0.55


def test_memory_is_bounded_by_the_edges():
    tracemalloc.start()
    graphs.block_model(100_000, 700_000, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150 * 700_000  # the chunk is all of it here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 3}, "nodes=3 is not accepted; expected an integer >= 20"),
        ({"edges": 0}, "edges=0"),
        ({"inside": 1.5}, r"inside=1\.5"),
        ({"exponent": 1}, "exponent=1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        graphs.block_model(**{"nodes": 100, "edges": 10, "seed": 0, **arguments})


@pytest.mark.slow
def test_the_size_of_wiki_talk():
    tracemalloc.start()
    found = graphs.block_model(1_140_149, 7_833_140, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 600e6
    assert len(found.source) == 7_833_140
    assert [len(part) for part in graphs.split(found, 0)] == [4_699_884, 1_566_628, 1_566_628]
    assert graphs.negatives(found, 0).shape == (7_833_140, 2)
