"""Draws configurations: all choices of a training, as plain values, from a seed and a number."""

import dataclasses
import random
from typing import Any

from dstjax import criteria, methods

Pairs = tuple[tuple[str, Any], ...]  # names and values; what is no plain value stands by its name, see making.py


@dataclasses.dataclass(frozen=True, repr=False)
class Configuration:
    """One training of a few steps, made by :func:`draw`."""

    seed: int
    number: int
    method: str
    hyperparameters: Pairs = ()
    tree: str = "dense"
    dtype: str = "float32"
    layout: Any = None
    inner: str = "sgd"
    wrapper: str = "none"
    arguments: Pairs = (("seed", 0), ("track", ()), ("on_nonfinite", "pass"))  # of sparsify
    given: bool = False  # whether the first masks are the caller's
    program: str = "eager"
    rewire: str = "none"
    gradients: tuple[str, ...] = ("ordinary",) * 4  # of each step
    zero_leaf: bool = False  # whether one leaf never has a gradient
    x64: bool = False
    event: str = "none"  # in the middle
    adopted: Pairs = ()  # the hyper-parameters of the method that is adopted
    save: str = "none"  # how the state is saved and restored in the middle
    middle: int = 2  # after so many steps
    wrong: str = "nothing"  # what the user gets wrong

    @property
    def steps(self) -> int:
        """How many calls of ``update`` it has."""
        return len(self.gradients)

    def __repr__(self) -> str:
        """The fields that differ from their defaults, and the method."""
        shown = [(f.name, getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "number"]
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        told = [f"{n}={dict(x) if x and n in _PAIRS else x!r}" for n, x in shown if x != defaults[n]]
        return f"Configuration(number={self.number}, {', '.join(told)})"

    def choices(self) -> str:
        """All but the seed and the number: those of distinct configurations differ."""
        return repr(dataclasses.replace(self, seed=0, number=0))


_PAIRS = ("hyperparameters", "arguments", "adopted")

# Each with the trees that only some programs, optimisers or files can take.
TREES = ("dense", "convolution", "lists", "tuples", "holes", "slashes", "numbers", "partitioned", "nnx", "equinox")
TREES = TREES * 2 + ("stack", "stack", "leaf", "others", "attention", "tiny")
LAYOUTS = {
    "stack": (None, "stack in out", {"blocks/kernel": "stack in out", "head": "in out"}),
    "equinox": (None, "out in"),
    "attention": (None, {"query": "in out out", "out": "in in out"}),
}
UNNAMED = ("lists", "slashes", "numbers", "leaf")
DTYPES = ("float32",) * 7 + ("bfloat16",) * 2 + ("float16", "float8_e4m3fn", "float64", "mixed")
INNERS = ("sgd", "momentum", "adam", "adamw", "lion", "rmsprop", "adafactor", "adagrad", "schedule", "noisy_sgd")
INNERS += ("clip", "frozen", "set_to_zero", "inject_hyperparams", "MultiSteps", "apply_if_finite", "half moments")
INNERS += ("decay of some", "schedule_free")
WRAPPERS = ("chain", "global norm", "named_chain", "masked", "partition", "two", "inject_hyperparams") * 2
WRAPPERS += ("MultiSteps", "MultiSteps as a transformation", "apply_if_finite")
PARTIAL = ("masked", "partition", "two")
COMPILED = ("MultiSteps", "MultiSteps as a transformation", "apply_if_finite")  # branches of their own, compiled anew
SEEDS = (0, 1, 2**31, 2**32 - 1, -1, "np.int64", "key", "array")
PROGRAMS = ("eager",) * 84 + ("jit",) * 5 + ("both",) * 3 + ("donated",) * 2 + ("vmap",) * 4 + ("auto", "explicit")
GRADIENTS = ("ordinary",) * 8 + ("nan", "inf", "huge", "tiny", "zero")
TRACKS = ((), (), ("exploration",), ("survival", "error"), ("exploration", "survival", "error"))
# What is refused whatever else is drawn.
WRONG = (
    "sparsity 1", "sparsity nan", "sparsity text", "unknown hyper-parameter", "seed", "track", "layout",
    "on_nonfinite", "inner", "method", "no parameters", "shape", "tree", "rewire", "state", "split", "other masks",
    "no masks", "dtype of masks",
)  # fmt: skip

_SHARES = (0.0, 0.1, 0.3, 0.5, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)
_STRUCTURES = ("weights",) * 8 + ("n_m(1, 2)", "n_m(2, 4)", "block(2, 2)", "block(1, 4)", "fan_in()")
# Values of each hyper-parameter; the first is drawn most.
VALUES: dict[str, tuple[Any, ...]] = {
    "distribution": ("erk", "uniform", "er", "map", "two patterns", "function"),
    "maskable": (None, "matrices", "one"),
    "drop": (None, *sorted(criteria.DROP), "rule"),
    "grow": (None, *sorted(criteria.GROW), "rule"),
    "scope": ("layer", "global"),
    "update_order": (None, "skip", "step_then_update", "update_then_step"),
    "counters": (None, True, False),
    "rounding": (None, "floor", "ceil"),
    "drop_fraction": (0.5, 0.0, 0.1, 0.3, 0.9, 1.0),
    "update_period": (1, 2, 3, 4),
    "start_step": (0, 1, 2, 3),
    "prune_step": (2, 1, 3, 20),
    "epsilon": (None, 1.0, 0.1, 4.0),
    "grown_std": (0.0, 0.1),
    "lambda_": (1.0, 0.0),
    "soft_bound": (False, True),
    "coefficient": (0.1, 0.0, 1e-3, 10.0),
    "signed": (False, True),
    "momentum": (0.9, 0.0),
    "redistribution": ("momentum", "none"),
    "threshold": (0.2, 1e-3, 1.0),
    "tolerance": (0.1, 0.5),
    "noise": (1e-5, 0.1),
    "l1": (1e-5, 1e-2),
    "learning_rate": (0.05, 0.5),
    "exploration": (1.0, 0.0, 0.5, 9.0),
    "penalty": (1e-4, 0.0),
    "importance": ("magnitude", "taylor"),
    "growth": ("importance", "random"),
    "explore_from": ("mru", "zero"),
    "grown_from": ("explored", "zero"),
    "last_drops": (True, False),
    "freeze": (True, False),
    "initial_sparsity": (0.0, 0.3, 0.5),
    "prune_end_step": (None, 3, 5),
    "partitions": (None, 1, 2),
    "rho": (0.01, 1.0),
    "s_init": (-2.0, -8.0, 0.0),
    "threshold_learning_rate": (0.1, 0.0),
    "threshold_decay": (0.01, 0.0),
    "k": (0.0, 0.5, -0.9),
    "performance": ("loss", "validation_loss", "accuracy"),
    "lag": (3, 1),
    "decay": (2e-4, 0.5),
    "ablation": (0.3, 0.0, 0.9),
}


def draw(seed: int, number: int) -> Configuration:
    """The configuration of a number; the same every time."""
    rng = random.Random(f"{seed} {number}")
    tree = rng.choice(TREES)
    dtype = rng.choice(DTYPES)
    method = rng.choice(methods.names())
    chosen: dict[str, Any] = dict(tree=tree, dtype=dtype, method=method)
    chosen["hyperparameters"] = hyperparameters(rng, method)
    layouts = LAYOUTS.get(tree, (None, None, "in out", "flax"))
    chosen["layout"] = rng.choice(layouts) if rng.random() < 0.5 and method != "dense" else None
    structured = "structure" in dict(chosen["hyperparameters"]) or method in ("asp", "ste", "sr_ste", "srigl")
    if structured and tree in UNNAMED and rng.random() < 0.9:
        chosen["layout"] = "in out"  # which the names do not tell
    chosen["inner"] = rng.choice(INNERS)
    chosen["wrapper"] = rng.choice(WRAPPERS) if rng.random() < 0.4 else "none"
    chosen["arguments"] = (
        ("seed", rng.choice(SEEDS)),
        ("track", rng.choice(TRACKS)),
        ("on_nonfinite", rng.choice(("pass", "skip"))),
    )
    chosen["given"] = rng.random() < 0.1
    chosen["program"] = program = rng.choice(PROGRAMS)
    chosen["rewire"] = rng.choice(("none",) * 5 + ("host",) * 3 + ("never", "always"))
    steps = rng.choice((4, 4, 4, 5, 5, 8) if program == "eager" else (4, 5))
    chosen["gradients"] = gradients(rng, steps)
    chosen["zero_leaf"] = rng.random() < 0.2
    chosen["x64"] = dtype == "float64" or rng.random() < 0.1
    chosen["middle"] = rng.randint(1, steps - 1)
    if program == "eager":
        chosen["event"] = rng.choice(("none",) * 4 + ("set_masks", "split", "adopt"))
        if chosen["event"] == "adopt":
            other = rng.choice(methods.names())
            chosen["event"], chosen["adopted"] = f"adopt {other}", hyperparameters(rng, other)
        kinds = ("none",) * 4 + ("pickle", "msgpack", "npz", "shapes")
        chosen["save"] = rng.choice(kinds) if rng.random() < 0.97 else "orbax"
        chosen["wrong"] = rng.choice(WRONG) if rng.random() < 0.05 else "nothing"
    return Configuration(seed, number, **_possible(chosen))


def _possible(chosen: dict[str, Any]) -> dict[str, Any]:
    """What nothing outside of dstjax would refuse."""
    if chosen["tree"] == "others":  # leaves that are no numbers: the gradients of these are None
        chosen |= dict(inner="sgd", wrapper="none", program="eager", save="none", event="none", wrong="nothing")
    if chosen["tree"] in ("numbers", "nnx", "equinox", "slashes") and chosen.get("save") in ("msgpack", "orbax"):
        chosen["save"] = "pickle"  # these files have text for keys, and no modules
    if chosen["program"] == "eager" and {chosen["wrapper"], chosen["inner"]} & {*COMPILED}:
        chosen["program"] = "jit"
    if methods.about(chosen["method"]).needs[:1] == ("initial_masks=",) and chosen["wrapper"] in PARTIAL:
        chosen["wrapper"] = "none"  # masks of all leaves are not those of some
    chosen["given"] &= chosen["wrapper"] not in PARTIAL
    if chosen["program"] == "vmap":
        chosen["wrapper"], chosen["given"] = "none", False
    if chosen["program"] in ("auto", "explicit"):
        chosen["tree"], chosen["layout"], chosen["wrapper"] = "dense", None, "none"
    if chosen["program"] != "eager" and chosen["rewire"] == "host" and chosen["program"] != "vmap":
        chosen["rewire"] = "none"  # another program for each; the host's choices are those of eager steps
    if chosen["dtype"] in ("float8_e4m3fn", "mixed") and chosen["inner"] not in ("sgd", "momentum", "adam", "frozen"):
        chosen["inner"] = "adam" if chosen["dtype"] == "mixed" else "sgd"
    if chosen["method"] == "dense":
        chosen["wrong"] = "nothing"  # it looks at nothing
    if chosen.get("wrong", "nothing") != "nothing":
        chosen |= dict(wrapper="none", event="none", save="none", given=False)
    if chosen["wrapper"] == "named_chain" and chosen.get("save") == "msgpack":
        chosen["save"] = "pickle"  # an OrderedDict, which flax does not write
    return chosen


def hyperparameters(rng: random.Random, method: str) -> Pairs:
    """Hyper-parameters of a method, most of them such that they go together."""
    known = methods.hyperparameters(method)
    found: dict[str, Any] = {}
    for name, values in VALUES.items():
        if name in known:
            value = values[0] if rng.random() < 0.6 else rng.choice(values)
            if value is not None:
                found[name] = value
    if "sparsity" in known:
        found["sparsity"] = rng.choice(_SHARES)
        if "structure" in known and (structure := rng.choice(_structures(rng, method))) != "weights":
            found["structure"] = structure
            if structure.startswith("n_m") and rng.random() < 0.9:
                found |= dict(sparsity=0.5, distribution="uniform")
        if found.get("distribution") in ("map", "two patterns") or (found.get("epsilon") and method == "set"):
            found["sparsity"] = None
            found.pop("initial_sparsity", None)
            if found.get("epsilon") and method == "set":
                found.pop("distribution", None)
        elif rng.random() < 0.8 and found.get("initial_sparsity", 0.0) > found["sparsity"]:
            found["initial_sparsity"] = 0.0
    if "n" in known:
        found |= rng.choice(({}, dict(n=1, m=2), dict(n=2, m=4), dict(n=4, m=4)))
        if "sparsity" in known and found.get("n") and rng.random() < 0.9:
            found.pop("sparsity", None)
            found.pop("distribution", None)
            found.pop("structure", None)
        elif method == "asp":
            found.pop("distribution", None)
    if "end_step" in known:
        end = rng.choice((4, 6, 9, 100, None))
        ends = ("iee", "str", "gmp", "gap", "dpf", "dcil", "granet")
        if (end is None and method in ends and rng.random() < 0.95) or found.get("soft_bound"):
            end = 9
        if end is not None:
            found["end_step"] = end
        if "drop_schedule" in known:
            shapes = ("constant", "constant", "cosine", "linear", "exponential", "cosine_floor", "stages", "function")
            found["drop_schedule"] = rng.choice(shapes) if end else "constant"
    if "stages" in known:
        found["update_period"], found["stages"] = rng.choice(((4, (2, 1, 1)), (4, None), (5, (2, 2, 1))))
    if rng.random() < 0.9:
        if found.get("grow") == "momentum":  # which snfs remembers
            found.pop("grow")
        if method == "dst_ee":  # a growth rule that reads them
            found.pop("counters", None)
        if method in ("srigl", "granet") or "structure" in found:
            found.pop("scope", None)
    if (
        found.get("scope") == "global"
        and rng.random() < 0.8
        and found.get("distribution") in ("map", "two patterns", "function")
    ):
        found["scope"] = "layer"
    return tuple(found.items())


def _structures(rng: random.Random, method: str) -> tuple[str, ...]:
    several = method in ("gmp", "gap", "admm", "dpf", "dcil", "granet", "top_kast", "str")  # densities of one leaf
    return tuple(s for s in _STRUCTURES if not (several and s.startswith("n_m") and rng.random() < 0.9))


def gradients(rng: random.Random, steps: int) -> tuple[str, ...]:
    """The kind of the gradient at each step; in most trainings all are ordinary."""
    if rng.random() < 0.6:
        return ("ordinary",) * steps
    return tuple(rng.choice(GRADIENTS) for _ in range(steps))
