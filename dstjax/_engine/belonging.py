"""Whether a state belongs to a method and its parameters, told from what a trace knows: trees, shapes, static facts."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.trees import is_absent, is_traced
from dstjax._engine.counts import masked_leaves
from dstjax._engine.rewire import counter_dtype
from dstjax._engine.states import SparseState, is_split
from dstjax.method import Method
from dstjax.rules import described

Promise = dict[str, tuple[()]]  # each key is a fact; no leaves, so that a trace sees it, and nothing else changes

_UNKNOWN = "?"  # of a hyper-parameter that only a trace knows, or that was known in one


def promise_of(method: Method) -> Promise:
    """What a state keeps of its method: its name, and what it promises about the masks."""
    facts: dict[str, Any] = {"method": method.name}
    if (masking := method.masking) is not None:
        facts |= {
            "sparsity": masking.sparsity,
            "distribution": masking.distribution,
            "structure": masking.structure,
        }
        if method.start.sparsity is not None:
            facts["initial_sparsity"] = method.start.sparsity
    if method.remembered.leaf is not None:  # arrays of one shape may be averages of another kind
        facts["memory"] = described(method.remembered.leaf).replace("'", "")
    return {f"{name}={_text(x)}": () for name, x in facts.items()}


def agrees(method: Method, state: SparseState, fact: str) -> bool:
    """Whether a state has one of the facts of a method: its name, or what it promises by that name."""
    return any(key in state.promise for key in promise_of(method) if key.startswith(f"{fact}="))


def _text(x: Any) -> str:
    """A fact in a form that any file format takes as a key; what is long or odd by a digest."""
    if is_traced(x):
        return _UNKNOWN
    text = x if isinstance(x, str) else described(x)
    if " object at 0x" in text:  # an address, another one in each process
        text = type(x).__qualname__
    if re.fullmatch(r"[\w.,=() -]{1,60}", text):
        return text
    return f"{type(x).__name__}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check_state(method: Method, state: Any) -> None:
    """Refuses what is no state, and a state of another method or of other promises.

    Raises:
      ValueError: it does not belong to the method; says how it differs.
    """
    if not isinstance(state, SparseState):
        raise ValueError(
            f"the state is a {type(state).__name__}; expected the SparseState that tx.init(params) returns. A file "
            "that was read without a target gives dicts and lists: read it into tx.init(params), or into its shapes "
            "by jax.eval_shape(tx.init, params)."
        )
    if is_split(state):
        raise ValueError("the state was split; call dstjax.merge_state before tx.update.")
    found = _differences(_facts(state.promise), _facts(promise_of(method)))
    if found := found or _missing(method, state):
        raise _refusal("; ".join(found))


def check_masked(method: Method, masked: Sequence[str], leaves: Mapping[str, Any]) -> None:
    """Refuses a state that masks other leaves than the method does.

    Within ``shard_map`` an array is a part of its leaf, of which a rule cannot judge: nothing is compared.

    Raises:
      ValueError: names the leaves.
    """
    if method.masking is None or jax.sharding.get_abstract_mesh().manual_axes:
        return
    try:
        wanted = masked_leaves(method.masking, leaves)
    except (AttributeError, TypeError, jax.errors.JAXTypeError):  # a rule that reads values cannot be asked again
        return
    sides = (
        ("masked by the method alone", [n for n in wanted if n not in set(masked)]),
        ("masked in the state alone", [n for n in masked if n not in wanted]),
    )
    if found := [f"{what}: {', '.join(some[:5])}{' ...' * (len(some) > 5)}" for what, some in sides if some]:
        raise _refusal("; ".join(found))


def _facts(promise: Any) -> dict[str, str]:
    facts = (fact.partition("=") for fact in (promise if isinstance(promise, Mapping) else ()))
    return {name: text for name, _, text in facts}


def _differences(theirs: dict[str, str], ours: dict[str, str]) -> list[str]:
    """Where two promises differ, in words; a fact that only a trace knows fits any."""
    found = []
    for name in sorted({*theirs, *ours}, key=lambda n: (n != "method", n)):
        mine, other = ours.get(name, "none"), theirs.get(name, "none")
        if _UNKNOWN not in (mine, other) and mine != other:
            found.append(f"{name} is {other} in the state and {mine} in the method")
    return found


def _missing(method: Method, state: SparseState) -> list[str]:
    """What the rules of a method read and a state lacks, or has in another form."""
    found = []
    counts = method.updates is not None and method.updates.counters
    if counts == is_absent(state.counters):
        found.append(f"the state has {'no ' * counts}counters")
    elif counts and method.updates is not None:
        wanted = jnp.dtype(counter_dtype(method.updates.schedule.count)).itemsize
        held = {x.dtype for x in jax.tree_util.tree_leaves(state.counters)}
        if any(dtype.itemsize < wanted for dtype in held):
            found.append(
                f"the counters are {', '.join(sorted(map(str, held)))}, which {method.updates.schedule.count} mask "
                "updates may exceed"
            )
    memory: Any = state.memory
    for name, rule in (
        ("leaves", method.remembered.leaf),
        ("second_mask", method.remembered.second_mask),
        ("shared", method.remembered.shared),
        ("measured", method.remembered.measure),
    ):
        has = not is_absent(memory) and not is_absent(getattr(memory, name))
        if has == (rule is None):
            found.append(f"the state has {'no ' * (rule is not None)}memory.{name}")
    if is_absent(state.view) != (method.seen.view is None):
        found.append(f"the state has {'no ' * (method.seen.view is not None)}view")
    return found


def _refusal(why: str) -> ValueError:
    return ValueError(
        f"the state does not belong to this method: {why}. Expected the state of tx.init(params), or of the same "
        "method; params, opt_state = dstjax.adopt(opt_state, params, method) makes it one of another method."
    )
