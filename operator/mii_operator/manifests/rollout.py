"""How a new version of the server replaces the old one."""

from mii_operator.manifests.meta import Manifest
from mii_spec.spec import Rollout


def strategy(rollout: Rollout, *, gpus: int, free_gpus: int | None) -> Manifest:
    """A Deployment's strategy: a spare replica first (surge), or one by one in place (replace).

    `auto` surges where a spare is known to fit: it needs no GPUs, or one node has enough of them free.
    A surge without room would wait for ever. Replacing takes down one replica at a time, so that with more
    than one there is always one that serves.
    """
    fits = gpus == 0 or (free_gpus is not None and free_gpus >= gpus)
    surge = rollout.strategy == "surge" or (rollout.strategy == "auto" and fits)
    return rolling(surge=1, unavailable=0) if surge else rolling(surge=0, unavailable=1)


def rolling(*, surge: int, unavailable: int) -> Manifest:
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
