"""Makes the cluster's objects those of the plan: creates, changes and deletes, and only what differs."""

import asyncio
from collections.abc import Collection, Iterable, Sequence

from mii_operator.diff import changed
from mii_operator.kube import MANAGER, ApiError, Kube, Object
from mii_operator.observe import Observed, owned, predecessor_owned
from mii_operator.store import ChildKey, Store

# Kinds that a plan may contain, and what is left of an earlier plan is looked for among. Pods and the like
# belong to these.
KINDS = (
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "PersistentVolumeClaim",
    "Job",
    "Service",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Deployment",
    "HorizontalPodAutoscaler",
    "ServiceMonitor",
)


class NotOwned(Exception):  # noqa: N818 - reads as what it is at the raise
    """An object of the name that the plan needs belongs to somebody else."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name} exists and is not this deployment's: rename or delete one of them")


class Refused(Exception):  # noqa: N818
    """The API server refuses an object of the plan."""

    def __init__(self, item: Object, error: ApiError) -> None:
        super().__init__(f"{item['kind']} {item['metadata']['name']}: {error}")


class InTheWay(Exception):  # noqa: N818
    """An object of an earlier resource of this name is still being deleted."""


async def align(
    kube: Kube,
    store: Store,
    observed: Observed,
    plan: Sequence[Object],
    *,
    keep: Iterable[ChildKey] = (),
    tried: Collection[str] = (),
) -> None:
    """Applies what `plan` says and the cluster does not, in order; deletes what it no longer says.

    Nothing is touched unless everything may be: the API server is asked about kinds in `tried` before.
    `keep` are children that stay as they are. Raises NotOwned, Refused, InTheWay, and ApiError.
    """
    uid = plan[0]["metadata"]["ownerReferences"][0]["uid"]
    differ = await asyncio.gather(*(_differs(kube, observed, item, uid) for item in plan))
    different = [item for item, differs in zip(plan, differ, strict=True) if differs]
    for item in different:
        if item["kind"] in tried:
            await _apply(kube, item, dry_run=True)
    for item in different:
        store.put(await _apply(kube, item))
    for item in leftovers(observed, plan, keep, uid):
        await kube.delete(item)


def leftovers(observed: Observed, plan: Sequence[Object], keep: Iterable[ChildKey], uid: str) -> list[Object]:
    """Children that no plan asks for any more, in the opposite of apply order."""
    wanted = {*keep, *(ChildKey(item["kind"], item["metadata"]["name"]) for item in plan)}
    found = [
        item
        for key, item in observed.children.items()
        if key.kind in KINDS and key not in wanted and owned(item, uid) and not _going(item)
    ]
    return sorted(found, key=lambda item: -KINDS.index(item["kind"]))


async def _differs(kube: Kube, observed: Observed, item: Object, uid: str) -> bool:
    """Raises if the object of that name is not ours to change. Who is not in the store is asked for."""
    metadata = item["metadata"]
    live = observed.children.get(ChildKey(item["kind"], metadata["name"])) or await kube.get(
        item["apiVersion"], item["kind"], metadata["namespace"], metadata["name"]
    )
    if live is None:
        return True
    if not owned(live, uid):
        _refuse(live, metadata["ownerReferences"][0]["name"])
    if _going(live):
        raise InTheWay(f"{item['kind']} {metadata['name']} is being deleted")
    return changed(item, live, MANAGER)


def _refuse(live: Object, name: str) -> None:
    kind, known_as = live["kind"], live["metadata"]["name"]
    if _going(live) or predecessor_owned(live, name):
        raise InTheWay(f"{kind} {known_as} of an earlier {name} is being deleted")
    raise NotOwned(kind, known_as)


async def _apply(kube: Kube, item: Object, *, dry_run: bool = False) -> Object:
    try:
        return await kube.apply(item, dry_run=dry_run)
    except ApiError as error:
        # Before 1.22 a field of the wrong type is an internal error.
        if error.code in (400, 403, 422) or "typed patch object" in str(error):
            raise Refused(item, error) from error
        raise


def _going(item: Object) -> bool:
    return bool(item["metadata"].get("deletionTimestamp"))
