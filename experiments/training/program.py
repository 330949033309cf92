"""Programs that are compiled once in a process, whatever functions they came from."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class Program:
    """A function for arguments of fixed shapes, compiled unless the process has compiled the same program before.

    Functions made anew for each run (another method, another sparsity) often lower to the same text: jit alone would
    compile each of them.
    """

    compiled: dict[str, Any] = {}  # noqa: RUF012  # one for the process, on purpose; the last used is last
    lock = threading.Lock()  # of several threads that compile
    most = 32  # that are kept: each takes hundreds of memory maps, of which Linux gives a process 65,530

    def __init__(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> None:
        self.function, self.donate = function, donate
        self.call: Any = None
        self.result: Any = None  # the treedef of what it returns

    def lower(self, *args: Any) -> Any:
        """The program before compilation, from leaves to leaves: trees may name what the program does not depend on."""
        leaves: list[Any]
        treedef: Any
        leaves, treedef = jax.tree_util.tree_flatten(args)
        ends = np.cumsum([0, *(len(jax.tree_util.tree_leaves(x)) for x in args)])

        def program(*leaves: Any) -> Any:  # one name for all, since the text begins with it
            found, self.result = jax.tree_util.tree_flatten(self.function(*treedef.unflatten(leaves)))
            return found

        donated = [i for n in self.donate for i in range(ends[n], ends[n + 1])]
        return jax.jit(program, donate_argnums=donated).lower(*leaves)

    def prepare(self, *args: Any) -> None:
        """Compiles it for arguments of these shapes, unless that has been done."""
        if self.call is None:
            lowered = self.lower(*args)
            # The text lacks arguments that the program does not read.
            parts = (lowered.as_text(), str(lowered.args_info), jax.default_backend())
            key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
            with Program.lock:
                self.call = Program.compiled.pop(key, None)
            self.call = self.call or lowered.compile()
            with Program.lock:
                Program.compiled[key] = self.call
                while len(Program.compiled) > Program.most:
                    Program.compiled.pop(next(iter(Program.compiled)))

    def __call__(self, *args: Any) -> Any:
        self.prepare(*args)
        return self.result.unflatten(self.call(*jax.tree_util.tree_leaves(args)))
