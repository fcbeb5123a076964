"""The operations of the model, as the engine calls them.

Each function checks shapes, then runs the CUDA kernel when its tensors are on a GPU and one is built, else
the torch reference. Shapes are in brackets; `out` dtypes equal the input's unless said otherwise.
"""

from mii_kernels.batch import RaggedBatch

__all__ = ["RaggedBatch"]
