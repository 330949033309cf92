"""What a method may promise about its numbers of active weights."""

from typing import Any

from dstjax import budgets
from dstjax._arrays.trees import is_traced


def check_promise(method: Any) -> None:
    """Refuses a promise that the parts break, as far as they are of this package and their numbers are known.

    Args:
      method: a :class:`dstjax.method.Method`, whose parts are checked already.

    Raises:
      ValueError: they break it.
    """
    masking, updates, begin = method.masking, method.updates, method.start.sparsity
    if masking is None or method.promises == "free":
        return

    def refuse(why: str) -> None:
        raise ValueError(f"promises={method.promises!r} is not accepted by {method.name!r}: {why}.")

    known = not (is_traced(begin) or is_traced(masking.sparsity))
    elsewhere = begin is not None and known and begin != masking.sparsity
    if elsewhere and method.promises == "kept":
        refuse(f"it starts at a sparsity of {begin}, which is not that of the end; expected 'reached' or 'total'")
    moves = updates is not None and isinstance(updates.n_kept, budgets.Move)
    stays = updates is None or (moves and updates.n_grown is None)
    if elsewhere and stays and method.start.pruner is None:
        refuse(f"it starts at a sparsity of {begin} and nothing changes the numbers; expected 'free', or a ramp")
    if updates is None:
        return
    if moves and updates.n_grown is budgets.no_growth:
        refuse("it drops weights and grows none; expected 'free', or n_grown=None, as many as are lost")
    if isinstance(updates.n_kept, budgets.Ramp) and updates.n_grown is None:
        refuse("it grows as many weights as its ramp prunes; expected n_grown=dstjax.budgets.no_growth, or 'free'")
    count = updates.schedule.count
    if isinstance(updates.n_kept, budgets.Ramp) and isinstance(count, int):
        share = updates.n_kept.progress.at(count - 1)
        if not is_traced(share) and share < 1:
            refuse(f"its ramp is {share:.3g} of the way at the last of {count} updates; expected a longer schedule")
