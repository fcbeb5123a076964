"""What must hold between fields. The CRD states the same in CEL, for API servers that evaluate it.

Takes any object with the attributes of `spec.MIIDeployment`; that module calls this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mii_spec import engine_args, pod_template
from mii_spec.errors import FieldError
from mii_spec.source import HubModel

if TYPE_CHECKING:
    from mii_spec.spec import MIIDeployment, Spec


def check(deployment: MIIDeployment) -> Iterator[FieldError]:
    """Every broken rule, at the field that is easiest to change."""
    spec = deployment.spec
    yield from _revision(spec)
    yield from _width(spec)
    yield from _autoscaling(spec)
    yield from _cache(spec)
    yield from engine_args.check(spec.engine.args)
    yield from pod_template.check(spec.pod_template, spec.accelerator.resource)


def _revision(spec: Spec) -> Iterator[FieldError]:
    if spec.revision != "main" and not isinstance(spec.source, HubModel):
        yield FieldError("spec.revision", f"only a Hugging Face model has revisions, not {spec.model}")


def _width(spec: Spec) -> Iterator[FieldError]:
    if spec.tensor_parallel == "auto" or spec.gpus == "auto":
        return
    if spec.gpus and spec.gpus != spec.tensor_parallel:
        yield FieldError(
            "spec.tensorParallel",
            f"must be auto or {spec.gpus} with gpus: {spec.gpus}, got {spec.tensor_parallel}: a replica uses "
            "all its GPUs for one copy of the model; for more copies raise replicas",
        )


def _autoscaling(spec: Spec) -> Iterator[FieldError]:
    scaling = spec.autoscaling
    if scaling is None:
        return
    if scaling.min > scaling.max:
        yield FieldError("spec.autoscaling.min", f"must be at most max ({scaling.max}), got {scaling.min}")
    if scaling.min == 0 and scaling.by == "hpa":
        yield FieldError(
            "spec.autoscaling.min",
            "must be at least 1 with by: hpa, which cannot scale to zero; operator can",
        )
    elif scaling.min == 0 and scaling.idle_after is None:
        yield FieldError("spec.autoscaling.idleAfter", "is required with min: 0, such as 30m")
    if scaling.min > 0 and scaling.idle_after is not None:
        yield FieldError("spec.autoscaling.idleAfter", "needs min: 0, as only then replicas go to zero")


def _cache(spec: Spec) -> Iterator[FieldError]:
    cache = spec.cache
    if cache.claim_name and cache.size:
        yield FieldError("spec.cache.size", "must not be set with claimName, which is a claim that exists")
    if cache.storage_class_name and not cache.size:
        yield FieldError("spec.cache.storageClassName", "needs size, which asks for a new claim")
