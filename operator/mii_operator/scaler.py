"""The autoscaler's hands: asks ready gateways for their load and sets the server Deployment's replicas.

`spec.replicas` has a field manager of its own while autoscaling is set, so that applying the plan, which says
nothing about it then, leaves it alone.
"""

import asyncio
import logging
from collections import deque

import aiohttp

from mii_operator import autoscale, constants, pods
from mii_operator.autoscale import Sample
from mii_operator.diff import applied_fields
from mii_operator.kube import AUTOSCALER, MANAGER, ApiError, Kube, Object
from mii_operator.manifests.meta import component_name
from mii_operator.observe import Observed, observe, owned
from mii_operator.probes import Probes
from mii_operator.store import ChildKey, Key, Store
from mii_spec.errors import SpecError
from mii_spec.spec import Autoscaling, MIIDeployment, parse

log = logging.getLogger(__name__)

PERIOD = 3.0  # seconds between two looks at the load
_PAST = 400  # samples kept of each deployment: more than the window holds


class Scaler:
    def __init__(self, kube: Kube, store: Store) -> None:
        self._kube = kube
        self._store = store
        self._probes = Probes()
        self._samples: dict[Key, deque[Sample]] = {}

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            scaled = [key for key in self._store.resources() if self._autoscaled(key)]
            self._samples = {key: past for key, past in self._samples.items() if key in scaled}
            await asyncio.gather(*map(self._guarded, scaled))

    def _autoscaled(self, key: Key) -> bool:
        resource = self._store.resource(key)
        return bool(resource and (resource.get("spec") or {}).get("autoscaling"))

    async def _guarded(self, key: Key) -> None:
        """One deployment's failure is not the others'; the next look is soon."""
        try:
            await self._scale(key)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            log.warning("%s/%s is not scaled: %s", *key, error)

    async def _scale(self, key: Key) -> None:
        resource = self._store.resource(key)
        try:
            deployment = parse(resource or {})
        except SpecError:
            return
        observed = observe(self._store, key, nodes_visible=False)
        server, scaling = observed.deployment(deployment, constants.SERVER), deployment.spec.autoscaling
        if server is None or scaling is None or scaling.by == "hpa" or _hpa(deployment, observed):
            return
        current = int(server["spec"].get("replicas", 1))
        wanted = await self._wanted(key, observed, scaling, current)
        if wanted != current:
            log.info("%s/%s: %d to %d replicas", *key, current, wanted)
            self._store.put(await own_replicas(self._kube, server, wanted))

    async def _wanted(self, key: Key, observed: Observed, scaling: Autoscaling, current: int) -> int:
        gateways = [pod for pod in observed.pods(constants.GATEWAY) if pods.ready(pod)]
        answers = [answer for answer in await asyncio.gather(*map(self._probes.load, gateways)) if answer]
        load = autoscale.combine(answers)
        if load is None or len(answers) < len(gateways):  # part of the load is not known: hold
            return autoscale.clamp(current, scaling)
        now = asyncio.get_running_loop().time()
        past = self._samples.setdefault(key, deque([Sample(now, current)], maxlen=_PAST))
        past.append(Sample(now, autoscale.needed(load, current, scaling)))
        return autoscale.desired(past, load, current, scaling, now)


async def own_replicas(kube: Kube, server: Object, replicas: int) -> Object:
    """Sets the Deployment's replicas as the autoscaler's own field."""
    metadata = {key: server["metadata"][key] for key in ("name", "namespace")}
    item = {key: server[key] for key in ("apiVersion", "kind")} | {"metadata": metadata}
    return await kube.apply({**item, "spec": {"replicas": replicas}}, manager=AUTOSCALER)


def owns_replicas(server: Object, manager: str) -> bool:
    """Whether `manager` has applied them. What a plan has applied and then leaves out is reset to 1."""
    return "f:replicas" in (applied_fields(server, manager) or {}).get("f:spec", {})


def _hpa(deployment: MIIDeployment, observed: Observed) -> bool:
    """Whether there is (still) a HorizontalPodAutoscaler of ours: two must not scale at once."""
    name = component_name(deployment, constants.SERVER)
    return ChildKey("HorizontalPodAutoscaler", name) in observed.children


async def take_over(kube: Kube, store: Store, deployment: MIIDeployment, observed: Observed) -> None:
    """Before a plan with autoscaling, which leaves replicas out, is applied to one that ran without."""
    server, scaling = observed.deployment(deployment, constants.SERVER), deployment.spec.autoscaling
    if scaling and server and owned(server, deployment.metadata.uid) and unowned(server, scaling):
        replicas = autoscale.clamp(int(server["spec"].get("replicas", 1)), scaling)
        store.put(await own_replicas(kube, server, replicas))


def unowned(server: Object, scaling: Autoscaling) -> bool:
    """Whether replicas would be reset or stuck. A HorizontalPodAutoscaler never starts from none."""
    if scaling.by == "hpa":
        return owns_replicas(server, MANAGER) or server["spec"].get("replicas") == 0
    return not owns_replicas(server, AUTOSCALER)
