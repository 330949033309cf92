"""DST-EE: link prediction on ia-email, 90 % sparsity.

    python -m experiments.train --config experiments/configs/dst_ee_links_ia_email.py --workdir DIR

Two fully connected layers 16-128-1 on embeddings of both ends, uniform sparsity, 50 epochs of batch 1024. The accuracy
is that of the last epoch, not of the best on the test pairs.

Expected time: 1 minute a seed on one accelerator (an estimate from 67,000 steps of 0.2 ms, not measured), and the
embeddings once before.

The paper's number: 83.77, 83.29 and 82.82 % at 80, 90 and 98 % sparsity; dense 83.47 %; pruned from dense 83.19, 82.95
and 67.18 % (DST-EE, Table 4, best epoch).

``--config.proxy=True``: the task ``links``, a generated graph of 1,500 nodes; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    return families.links("ia_email", proxy).lock()
