"""Serve open LLMs: `mii.pipeline`, `mii.serve`, `mii.client`, compatible with DeepSpeed-MII.

Imports are lazy, so that `import mii` is quick and needs no torch. (The clients live in `mii.clients`: a
submodule `mii.client` would hide the function of that name.)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mii.api import MIIPipeline, async_pipeline, pipeline, serve
    from mii.clients import MIIClient, Response, client

__version__ = "0.1.0"
__all__ = ["MIIClient", "MIIPipeline", "Response", "async_pipeline", "client", "pipeline", "serve"]

_HOME = {
    "pipeline": "mii.api",
    "async_pipeline": "mii.api",
    "serve": "mii.api",
    "MIIPipeline": "mii.api",
    "client": "mii.clients",
    "MIIClient": "mii.clients",
    "Response": "mii.clients",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mii' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
