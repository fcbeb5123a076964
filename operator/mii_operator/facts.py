"""What the plan must know beside the manifest. Collected by whoever asks for a plan; plain data here."""

from collections.abc import Collection
from dataclasses import dataclass

from mii_spec.model_facts import ModelFacts
from mii_spec.sizing import GpuFacts


@dataclass(frozen=True)
class Images:
    """The container images of this release, as the operator was installed with."""

    server: str
    gateway: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """What this API server offers, of what not every one does."""

    disruption_budget: str | None  # apiVersion of PodDisruptionBudget
    service_monitor: str | None  # apiVersion of ServiceMonitor (Prometheus operator)
    autoscaler: str | None = None  # apiVersion of HorizontalPodAutoscaler with any metric: autoscaling/v2


@dataclass(frozen=True)
class Cluster:
    """The cluster that a plan's objects are for."""

    images: Images
    capabilities: Capabilities
    free_gpus: int | None = None  # on the node with most of them free; None: unknown
    cache_access_modes: tuple[str, ...] = ()  # of the cache's claim, if it exists already: they cannot change


@dataclass(frozen=True)
class Facts:
    model: ModelFacts | None = None  # None: not known
    gpu: GpuFacts | None = None  # None: there is none
    cluster: Cluster | None = None  # None: the plan is for processes on this machine


def capabilities(kinds: Collection[str]) -> Capabilities:
    """From the API server's discovery, as group/version/Kind (`policy/v1/PodDisruptionBudget`)."""
    return Capabilities(
        disruption_budget=_newest("policy", ("v1", "v1beta1"), "PodDisruptionBudget", kinds),
        service_monitor=_newest("monitoring.coreos.com", ("v1",), "ServiceMonitor", kinds),
        autoscaler=_newest("autoscaling", ("v2",), "HorizontalPodAutoscaler", kinds),
    )


def _newest(group: str, versions: tuple[str, ...], kind: str, kinds: Collection[str]) -> str | None:
    served = (f"{group}/{version}" for version in versions if f"{group}/{version}/{kind}" in kinds)
    return next(served, None)
