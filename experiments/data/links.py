"""Link prediction as classification of pairs of nodes: is there an edge?

Inputs are the embeddings of both ends side by side (16 numbers), made from the edges before the test edges alone.
Reference: DST-EE, Tables 3 and 4 (ia-email, wiki-talk), for the task; see :mod:`experiments.data.embeddings` for what
the paper leaves open.
"""

import hashlib
import io
import logging
from pathlib import Path

import numpy as np

from dstjax.checks import check_choice
from experiments.data import edges as edge_lists
from experiments.data import embeddings, files, graphs
from experiments.data.arrays import Data, Split
from experiments.data.edges import Edges

STEMS = {"ia_email": "ia-enron-email-dynamic", "wiki_talk": "wiki-talk-temporal"}
# Nodes with an edge, and edges; the paper prints one more node for ia-email, whose numbers begin at 1.
SIZES = {"ia_email": (87_273, 1_148_072), "wiki_talk": (1_140_149, 7_833_140)}
ENDINGS = (*(f"{suffix}{gz}" for suffix in edge_lists.SUFFIXES for gz in ("", ".gz")), ".zip")
PROTOCOLS = graphs.PROTOCOLS
_log = logging.getLogger(__name__)


def accepted(name: str) -> tuple[str, ...]:
    """The places under the root."""
    return tuple(STEMS[name] + ending for ending in ENDINGS)


def load(
    name: str, root: Path, protocol: str, samples: tuple[int, int] | None = None, *, embedding: str = "walks"
) -> Data:
    """The pairs of a graph that is on disk; its embeddings are kept in the root's folder ``embeddings``.

    Args:
      name: 'ia_email' or 'wiki_talk'.
      root: the folder of data sets.
      protocol: see :func:`experiments.data.graphs.split`.
      samples: nodes and edges, where the file is a part of the data set.
      embedding: 'walks' or 'spectral'.

    Raises:
      ValueError: a file that is missing, damaged or of another graph.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    path = next((root / place for place in accepted(name) if (root / place).is_file()), None)
    if path is None:
        raise files.missing(name, root, accepted(name))
    found = edge_lists.read(path)
    files.check_counts(("nodes", "edges"), (found.nodes, len(found.source)), samples or SIZES[name], path)
    return of_edges(found, f"{name}, protocol {protocol} ({path})", protocol, embedding, root / "embeddings")


def blockgraph(nodes: int = 1_500, edges: int = 24_000, *, seed: int = 0, embedding: str = "spectral") -> Data:
    """The pairs of a generated graph, small by default; wiki-talk has 1,140,149 nodes and 7,833,140 edges."""
    made = graphs.block_model(nodes, edges, seed=seed)
    return of_edges(made, f"block model of {nodes:,} nodes and {edges:,} edges", "paper", embedding)


def of_edges(edges: Edges, title: str, protocol: str, embedding: str, keep: Path | None = None) -> Data:
    """The pairs of a graph: all edges (class 1), then as many pairs without an edge (class 0).

    An edge and the pair without one that was drawn for it serve together. Memory: 128 bytes an edge.

    Args:
      edges: the oldest first.
      title: for the provenance.
      protocol: see :func:`experiments.data.graphs.split`.
      embedding: 'walks' or 'spectral'.
      keep: a folder for the embeddings; None: they are made each time.

    Raises:
      ValueError: fewer than five edges, a graph too dense for negatives, or an unknown name.
    """
    check_choice("embedding", embedding, embeddings.EMBEDDINGS)
    m = len(edges.source)
    test = graphs.split(edges, 0, protocol).test
    nodes = _features(edges, test, protocol, embedding, keep)
    pairs = np.concatenate([np.stack([edges.source, edges.target], axis=1), graphs.negatives(edges, 0)])
    x = nodes[pairs].reshape(2 * m, -1)
    mean = np.zeros(x.shape[1:], np.float32)

    def splits(seed: int) -> Split:
        drawn = graphs.split(edges, seed, protocol)
        parts = [np.concatenate([part, part + m]).astype(np.int32) for part in drawn]
        return Split(parts[0], parts[1], parts[2], mean)

    fifth = 2 * (m // 5)
    return Data(
        x=x,
        y=np.repeat(np.array([1, 0], np.int32), m),
        classes=2,
        sizes=(3 * fifth, fifth, fifth),
        provenance=(
            f"{title}: {edge_lists.describe(edges)}; embedding {embedding}; "
            f"{3 * fifth:,} training, {fifth:,} validation, {fifth:,} test pairs"
        ),
        splits=splits,
    )


def _features(edges: Edges, test: np.ndarray, protocol: str, embedding: str, keep: Path | None) -> np.ndarray:
    """The embeddings by the edges other than the test edges, float32[nodes, dimensions]."""
    seen = np.ones(len(edges.source), bool)
    seen[test] = False
    older = Edges(edges.source[seen], edges.target[seen], None if edges.time is None else edges.time[seen], edges.nodes)
    if keep is None:
        return embeddings.EMBEDDINGS[embedding](older, 0)
    path = keep / f"{embedding}-{edges.nodes}-{_mark(older, protocol, embedding)[:16]}.npy"
    if path.is_file():
        kept = _kept(path, (edges.nodes, embeddings.DIMENSIONS))
        if kept is not None:
            return kept
        _log.warning("%s is damaged or was changed; its embeddings are made anew.", path)
    made = embeddings.EMBEDDINGS[embedding](older, 0)
    content = io.BytesIO()
    np.save(content, made)
    with files.writing(path):
        keep.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as partial:
            partial.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())
    return made


def _mark(edges: Edges, protocol: str, embedding: str) -> str:
    """A SHA-256 of all that embeddings depend on."""
    settings = {"embedding": embedding, "protocol": protocol, "nodes": edges.nodes, **embeddings.constants()}
    found = hashlib.sha256(repr(sorted(settings.items())).encode())
    for array in (edges.source, edges.target, edges.time):
        found.update(b"none" if array is None else hashlib.sha256(array.tobytes()).digest())
    return found.hexdigest()


def _kept(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The embeddings of a file; None where they are not as they were written, or of another shape.

    The file is NumPy's, shape and all, with the SHA-256 of that behind it.
    """
    with files.reading(path, "embeddings, which are made anew once the file is removed"):
        content = path.read_bytes()
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[:-size]).digest() != content[-size:]:
        return None
    found = np.load(io.BytesIO(content))
    return found if found.shape == shape else None
