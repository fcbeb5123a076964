"""The operations on the CUDA kernels: `backend` makes what `ops` calls, over a given library.

Each function allocates its outputs, chooses what its launcher has to be told, and calls the library. An
operation without a kernel, or a case that a kernel does not serve, is left to the reference on that device.
"""

from functools import partial
from types import SimpleNamespace

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.activations import activate, activate_and_mul
from mii_kernels.cuda.norms import layer_norm, rms_norm
from mii_kernels.cuda.rotary import rope_and_store_kv
from mii_kernels.cuda.sampling import greedy, sample

OPS = (activate, activate_and_mul, greedy, layer_norm, rms_norm, rope_and_store_kv, sample)


def backend(library: Library) -> SimpleNamespace:
    """The reference's functions and, in the place of each that has a kernel, ours."""
    functions = {name: getattr(reference, name) for name in reference.__all__}
    return SimpleNamespace(**functions | {op.__name__: partial(op, library) for op in OPS})
