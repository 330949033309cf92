"""DST-EE: link prediction on wiki-talk, 90 % sparsity.

    python -m experiments.train --config experiments/configs/dst_ee_links_wiki_talk.py --workdir DIR

Two fully connected layers 16-128-1 on embeddings of both ends, uniform sparsity, 50 epochs of batch 1024. The accuracy
is that of the last epoch, not of the best on the test pairs.

Expected time: 2 minutes a seed on one accelerator (an estimate from 459,000 steps of 0.2 ms, not measured), and the
embeddings once before.

The paper's number: 79.28, 79.13 and 78.58 % at 80, 90 and 98 % sparsity; dense 79.72 %; pruned from dense 79.05, 78.34
and 78.08 % (DST-EE, Table 3, best epoch).

``--config.proxy=True``: the task ``links``, a generated graph of 1,500 nodes; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    return families.links("wiki_talk", proxy).lock()
