"""Training FLOPs of each family of methods; :mod:`dstjax.costs` says what is counted, checks numbers and chooses.

Every function takes f_S (``sparse``), f_D (``dense``) and the convention, 'paper' or 'exact', and returns the FLOPs of
a forward and a backward pass per sample, as a mean over training. Nothing is checked here.
"""

from collections.abc import Sequence

BASIS_OVERHEAD = 0.07  # of f_D, in each of the three passes


def mean_of_cubic(final: float, initial: float, updates: int | None = None) -> float:
    """Averages the ramp final + (initial - final) (1 - x)^3; see :func:`dstjax.costs.mean_density_of_cubic`."""
    part = 1 / 4 if updates is None else (updates + 1) ** 2 / (4 * updates**2)
    return final + part * (initial - final)


def always_dense(sparse: float, dense: float, convention: str) -> float:
    """Costs 3 f_D in both conventions.

    Reference: Evci et al. (RigL), 2020, appendix on FLOPs: the backward pass costs two forward passes.
    """
    return 3 * dense


def always_sparse(sparse: float, dense: float, convention: str) -> float:
    """Costs 3 f_S in both conventions: all three passes see the active weights alone.

    Holds for fixed masks, for growth that reads no dense gradient, and for STR, whose threshold passes no gradient to
    inactive weights. Where the density moves (accset, lset, dynset, str), ``sparse`` is the mean over training.

    Reference: IEE, appendix on training cost; RigL, appendix on FLOPs.
    """
    return 3 * sparse


def dense_gradient_at_updates(
    sparse: float, dense: float, convention: str, *, update_period: int, update_share: float = 1.0
) -> float:
    """Takes one dense gradient of the weights per mask update.

    'paper': (3 f_S P + 2 f_S + f_D) / (P + 1) with P = ``update_period``, an update between P steps, to the end.
    'exact': 3 f_S + u (f_D - f_S) / P, an update every P calls during the share u = ``update_share`` of training. A
    step that is skipped still makes its passes.

    Reference: RigL, appendix on FLOPs (from general knowledge; the formula in IEE's appendix was not readable).
    """
    if convention == "paper":
        return (3 * sparse * update_period + 2 * sparse + dense) / (update_period + 1)
    return 3 * sparse + update_share * (dense - sparse) / update_period


def dense_gradient_in_window(
    sparse: float, dense: float, convention: str, *, update_period: int, window: int, update_share: float = 1.0
) -> float:
    """Takes w = ``window`` dense gradients of the weights per mask update; with w = 1 it is RigL's cost.

    'paper': (3 f_S (P - w + 1) + w (2 f_S + f_D)) / (P + 1), RigL's with w - 1 more of the steps.
    'exact': 3 f_S + u w (f_D - f_S) / P, with u = ``update_share`` as for RigL.

    Reference: docs/balanced-growth.md.
    """
    if convention == "paper":
        return (3 * sparse * (update_period - window + 1) + window * (2 * sparse + dense)) / (update_period + 1)
    return 3 * sparse + update_share * window * (dense - sparse) / update_period


def dense_gradient_always(sparse: float, dense: float, convention: str) -> float:
    """Costs 2 f_S + f_D in both conventions: the dense momentum of SNFS needs the dense weight gradient at every step.

    Reference: IEE, appendix on training cost.
    """
    return 2 * sparse + dense


def dense_weights(sparse: float, dense: float, convention: str) -> float:
    """Keeps dense weights behind a mask that the forward pass sees: DPF, STE, SR-STE.

    'paper': f_S + 2 f_D, a sparse forward and a dense backward pass. 'exact': 2 f_S + f_D, since the gradient of the
    activations goes through the masked weights too. ``sparse`` is the mean over training.

    Reference: IEE, Table 5 (0.83 of dense at 2:4 is the first form).
    """
    return sparse + 2 * dense if convention == "paper" else 2 * sparse + dense


def two_networks(sparse: float, dense: float, convention: str) -> float:
    """Runs a sparse and a full forward pass on the same batch, each with its own backward pass: DCIL.

    'paper': 5 f_D + f_S. 'exact': 3 f_S + (2 f_D + f_D - f_S) = 2 f_S + 3 f_D, since the weight gradient of the sparse
    network is wanted where the mask is set, that of the full network elsewhere.

    Reference: IEE, appendix on training cost; Kim et al. (DCIL), 2021.
    """
    return 5 * dense + sparse if convention == "paper" else 2 * sparse + 3 * dense


def cubic_ramp(
    sparse: float, dense: float, convention: str, *, ramp_start: float, ramp_end: float, updates: int | None = None
) -> float:
    """Averages f for GMP: a = ``ramp_start`` at f_D, the cubic ramp to b = ``ramp_end``, and the rest; 3 times that.

    a f_D + (b - a) m + (1 - b) f_S, with m = f_S + (f_D - f_S) / 4 in the convention 'paper'; 'exact' takes the mean
    over the stairs of so many ``updates`` where they are given. f is taken as linear in the density.

    Args:
      sparse: f_S at the final density.
      dense: f_D.
      convention: 'paper' or 'exact'.
      ramp_start: share of training before the first pruning.
      ramp_end: share of training at the last pruning.
      updates: prunings after the one at the start of the ramp, which prunes nothing.

    Reference: Zhu and Gupta, 2017, Eq. 1; the mean is ours.
    """
    ramp = mean_of_cubic(sparse, dense, updates if convention == "exact" else None)
    return 3 * (ramp_start * dense + (ramp_end - ramp_start) * ramp + (1 - ramp_end) * sparse)


def ramp_with_growth(
    sparse: float, dense: float, convention: str, *, start: float, ramp_share: float, update_period: int
) -> float:
    """Takes RigL's formula at the mean of f: GraNet.

    The ramp takes the share ``ramp_share`` of training and begins with it, at f = ``start``. 'paper' takes the middle
    (start + f_S) / 2 for its mean, 'exact' the mean of a cubic, f_S + (start - f_S) / 4.

    Reference: IEE, appendix on training cost (which leaves out the dense gradients, 1 / 4000 of the steps there).
    """
    part = 1 / 2 if convention == "paper" else 1 / 4
    mean = sparse + ramp_share * part * (start - sparse)
    return dense_gradient_at_updates(mean, dense, convention, update_period=update_period)


def dense_partition(sparse: float, dense: float, convention: str, *, partitions: int, grow_share: float) -> float:
    """Costs 3 (f_S + s (f_D - f_S) / K) in both conventions, one of K = ``partitions`` being dense: GaP.

    The share s = ``grow_share`` of training lies before the final tuning; all partitions are taken to cost the same.

    Reference: Ma et al. (GaP), 2022 (from general knowledge; the paper was not at hand), the formula is ours.
    """
    return 3 * (sparse + grow_share * (dense - sparse) / partitions)


def dense_then_sparse(sparse: float, dense: float, convention: str, *, dense_share: float) -> float:
    """Costs 3 f_D for the share ``dense_share`` of training, then 3 f_S: one_shot, asp, admm, sis, pre-training.

    This is a lower bound: the projections of ADMM (a few operations per weight) and the solver of SIS come on top. ADMM
    counts as dense until its projection is final, 2 / 3 of 20 + 20 + 20 epochs.

    Reference: IEE, Table 1 (pre-trained rows).
    """
    return 3 * (dense_share * dense + (1 - dense_share) * sparse)


def forward_and_backward_sets(sparse: float, dense: float, convention: str, *, backward: float) -> float:
    """Costs 2 f_S + f_B in both conventions, f_B = ``backward`` being f at the density of the backward set: Top-KAST.

    Reference: Jayakumar et al. (Top-KAST), 2020 (from general knowledge; the paper was not at hand).
    """
    return 2 * sparse + backward


def soft_memory_bound(
    sparse: float, dense: float, convention: str, *, stages: Sequence[tuple[float, float]] = ()
) -> float:
    """Costs 3 times the mean of f in both conventions: MEST.

    Elastic mutation stays at f_S between updates. With a soft memory bound (EM&S) the early stages are denser: give
    them as ``stages``, pairs of a share of training and its f; the rest has f_S. The largest f is the peak.

    Reference: Yuan et al. (MEST), 2021, without its data sieving and layer freezing.
    """
    return 3 * (sparse + sum(share * (f - sparse) for share, f in stages))


def explore_phases(
    sparse: float,
    dense: float,
    convention: str,
    *,
    estimation: int = 150,
    improvement: int = 150,
    exploration: int = 150,
    update_share: float = 3 / 4,
) -> float:
    """Runs cycles of H + J sparse steps and Q steps that explore, then trains sparsely: IEE.

    3 f_S + u Q / (H + J + Q) (e - 3 f_S). 'paper' has e = 2 f_S + f_D for a step that explores; H = J = Q and u = 3/4
    give (11 f_S + f_D) / 4. 'exact' has e = 3 f_D - f_S: forward and activation gradient pass all weights, the weight
    gradient those that are explored; the same case gives (8 f_S + 3 f_D) / 4.

    Args:
      sparse: f_S.
      dense: f_D.
      convention: 'paper' or 'exact'.
      estimation: H, steps of importance estimation in a cycle.
      improvement: J, steps of accuracy improvement.
      exploration: Q, steps of reactivation and exploration.
      update_share: u, the share of training that has cycles.

    Reference: IEE, appendix on training cost.
    """
    explore = 2 * sparse + dense if convention == "paper" else 3 * dense - sparse
    cycle = exploration / (estimation + improvement + exploration)
    return 3 * sparse + update_share * cycle * (explore - 3 * sparse)


def explore_channels(
    sparse: float,
    dense: float,
    convention: str,
    *,
    estimation: int = 150,
    improvement: int = 150,
    exploration: int = 150,
    update_share: float = 5 / 130,
) -> float:
    """Costs as :func:`explore_phases`; in the paper the cycles of structured IEE end after 5 of 130 epochs.

    Reference: IEE, appendix on training cost.
    """
    stages = dict(estimation=estimation, improvement=improvement, exploration=exploration)
    return explore_phases(sparse, dense, convention, update_share=update_share, **stages)


def shared_basis(sparse: float, dense: float, convention: str) -> float:
    """Costs 3 f_S + 0.21 f_D in both conventions: a shared basis costs 0.07 f_D a pass in interspace pruning.

    Reference: IEE, appendix on training cost (from general knowledge otherwise; the paper was not at hand).
    """
    return 3 * (sparse + BASIS_OVERHEAD * dense)
