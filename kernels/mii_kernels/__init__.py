"""Kernels of the engine: `ops` is the interface, `reference` the truth and the CPU path."""
