"""The operations on the CUDA kernels: `backend` makes what `ops` calls, over a given library.

Each function allocates its outputs, chooses what its launcher has to be told, and calls the library. An
operation without a kernel, or a case that a kernel does not serve, is left to the reference on that device.
"""

from collections.abc import Collection
from functools import partial
from types import SimpleNamespace

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.activations import activate, activate_and_mul
from mii_kernels.cuda.attention import paged_attention
from mii_kernels.cuda.gemm import gated_linear, linear, linear_onto
from mii_kernels.cuda.logits import add_bias, apply_penalties, count_tokens
from mii_kernels.cuda.moe import moe_experts, moe_gate
from mii_kernels.cuda.norms import layer_norm, rms_norm
from mii_kernels.cuda.quantised import quantise, quantised_linear
from mii_kernels.cuda.rotary import rope_and_store_kv
from mii_kernels.cuda.sampling import greedy, log_probs, sample

OPS = (
    *(
        activate,
        activate_and_mul,
        gated_linear,
        layer_norm,
        linear,
        linear_onto,
        paged_attention,
        rms_norm,
        rope_and_store_kv,
    ),
    *(moe_experts, moe_gate, add_bias, apply_penalties, count_tokens, greedy, log_probs, sample),
    *(quantise, quantised_linear),
)
NAMES = tuple(op.__name__ for op in OPS)


def backend(library: Library, without: Collection[str] = ()) -> SimpleNamespace:
    """The reference's functions and, in the place of each that has a kernel, ours, but for those of NAMES
    that are in `without`."""
    functions = {name: getattr(reference, name) for name in reference.__all__}
    ours = {op.__name__: partial(op, library) for op in OPS if op.__name__ not in without}
    return SimpleNamespace(**functions | ours)
