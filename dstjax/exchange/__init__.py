"""Takes sparse parameters and their masks to other tools, and back.

================================================== ===========================================================
function                                           what it writes
================================================== ===========================================================
:func:`save_npz`, :func:`load_npz`                 values of the active weights alone, and one bit a weight
:func:`save_safetensors`, :func:`load_safetensors` whole tensors with zeros, and boolean masks beside them
:func:`to_scipy`, :func:`from_scipy`               a ``scipy.sparse`` matrix of (outputs, inputs) for each layer
:func:`to_torch`, :func:`from_torch`               a ``state_dict`` of PyTorch, masks as ``torch.nn.utils.prune``
:func:`save_program`, :func:`load_program`         parameters with their program, which runs without the code
================================================== ===========================================================

All of them take parameters that are sparse: those of training, or ``forward_params(params, opt_state,
training=False)`` where a method keeps dense weights behind its masks. The masks are those of an optimiser state, or a
tree of them. Leaves go by their paths, such as ``Dense_0/kernel``. What comes back are NumPy arrays of the same dtypes,
bfloat16 and float8 too. safetensors, scipy and flatbuffers are imported where
they are called for. :func:`place_like` takes parameters and a state to other devices.
"""

from dstjax.exchange.devices import place_like
from dstjax.exchange.files import load_npz, load_safetensors, save_npz, save_safetensors
from dstjax.exchange.matrices import from_scipy, to_scipy
from dstjax.exchange.programs import load_program, save_program
from dstjax.exchange.state_dict import from_torch, to_torch

__all__ = [
    "from_scipy",
    "from_torch",
    "load_npz",
    "load_program",
    "load_safetensors",
    "place_like",
    "save_npz",
    "save_program",
    "save_safetensors",
    "to_scipy",
    "to_torch",
]
