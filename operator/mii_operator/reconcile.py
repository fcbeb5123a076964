"""One resource: observe → plan → apply → status. Idempotent, and from scratch each time."""

import base64
import binascii
import logging
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from mii_operator import constants, pods, prefetch, scaler, status, verdict
from mii_operator.apply import InTheWay, NotOwned, Refused, align
from mii_operator.conditions import View
from mii_operator.facts import Capabilities, Images
from mii_operator.kube import ApiError, Kube, Object
from mii_operator.manifests.prefetch import job_name, wanted
from mii_operator.model_source import ModelRefused, ModelSource
from mii_operator.observe import Observed, observe
from mii_operator.planning import decide, is_server, stand_in
from mii_operator.probes import Probes
from mii_operator.store import ChildKey, Key, Store
from mii_operator.verdict import Verdict
from mii_spec.errors import SpecError
from mii_spec.spec import MIIDeployment, PodTemplate, parse

log = logging.getLogger(__name__)

SOON, RETRY = 5.0, 30.0  # seconds until a look at what no event tells of


class Reconciler:
    def __init__(
        self,
        *,
        kube: Kube,
        store: Store,
        models: ModelSource,
        images: Images,
        offered: Capabilities,
        nodes_visible: bool,
    ) -> None:
        self._kube = kube
        self._store = store
        self._models = models
        self._images = images
        self._offered = offered
        self._nodes_visible = nodes_visible
        self._probes = Probes()

    async def reconcile(self, key: Key) -> float | None:
        """Seconds after which to look again, though nothing may have happened; None: no need to."""
        resource = self._store.resource(key)
        if resource is None or resource["metadata"].get("deletionTimestamp"):
            return None
        decided = await self._decide(resource, self._observe(key))
        if decided.plan:
            decided = await self._align(key, decided)
        view = await self._view(key, resource, decided)
        engine = await self._engine(view.observed) if view else None
        await self._write(resource, status.build(resource, decided, view, engine, _now()))
        return self._again(decided, view, engine)

    async def _decide(self, resource: Object, observed: Observed) -> Verdict:
        try:
            deployment = parse(resource)
        except SpecError as error:
            return verdict.refuse("InvalidSpec", str(error))
        try:
            model = await self._models.find(deployment.spec, await self._token(deployment))
        except ModelRefused as refused:
            return verdict.refuse(refused.reason, refused.message, deployment)
        return decide(deployment, observed, model, self._images, self._offered)

    async def _align(self, key: Key, decided: Verdict) -> Verdict:
        """The verdict, or the API server's where it refuses."""
        assert decided.plan
        assert decided.deployment
        deployment = decided.deployment
        await scaler.take_over(self._kube, self._store, deployment, self._observe(key))
        observed = self._observe(key)
        children, keep = list(decided.plan.children), []
        if not self._model_is_there(deployment, observed):
            children, keep = [c for c in children if not is_server(c)], _names(filter(is_server, children))
        try:
            await align(self._kube, self._store, observed, children, keep=keep, tried=_tried(deployment))
        except NotOwned as error:
            return verdict.refuse("NotOwned", str(error), deployment)
        except Refused as error:
            return verdict.refuse("RefusedByServer", str(error), deployment)
        except InTheWay as error:
            return verdict.wait("Deleting", str(error), deployment)
        return decided

    async def _view(self, key: Key, resource: Object, decided: Verdict) -> View | None:
        """None when not even the name is one that children could have."""
        try:
            deployment = decided.deployment or stand_in(resource)
        except SpecError:
            return None
        observed = self._observe(key)
        return View(deployment, decided, observed, await self._progress(deployment, observed), _now())

    def _observe(self, key: Key) -> Observed:
        return observe(self._store, key, nodes_visible=self._nodes_visible)

    def _model_is_there(self, deployment: MIIDeployment, observed: Observed) -> bool:
        return not wanted(deployment) or prefetch.read(_job(deployment, observed)).done

    async def _progress(self, deployment: MIIDeployment, observed: Observed) -> prefetch.Progress | None:
        """Of the download; asks its pod for the newest line of its log."""
        if not wanted(deployment):
            return None
        job, fetchers = _job(deployment, observed), observed.pods(constants.FETCH)
        if prefetch.read(job).done or not fetchers:
            return prefetch.read(job)
        startup = deployment.spec.rollout.startup_timeout
        problem = pods.problem(fetchers, now=_now(), startup=startup)
        words = problem.message if problem else pods.unscheduled(fetchers)
        line = "" if words else await self._last_line(fetchers[-1])
        return prefetch.read(job, waiting=words or "", line=line)

    async def _last_line(self, pod: Object) -> str:
        try:
            return await self._kube.last_log_line(pod["metadata"]["namespace"], pod["metadata"]["name"])
        except ApiError as error:
            log.debug("no log of %s: %s", pod["metadata"]["name"], error)
            return ""

    async def _engine(self, observed: Observed) -> Any:
        """What the oldest ready server tells."""
        found = next(filter(pods.ready, observed.pods(constants.SERVER)), None)
        return await self._probes.info(found) if found else None

    async def _token(self, deployment: MIIDeployment) -> str:
        """Of the hub, from the manifest's Secret; empty if there is none or it may not be read."""
        wanted_key = deployment.spec.token_secret_ref
        if wanted_key is None:
            return ""
        try:
            secret = await self._kube.get("v1", "Secret", deployment.metadata.namespace, wanted_key.name)
            encoded = ((secret or {}).get("data") or {}).get(wanted_key.key, "")
            return base64.b64decode(encoded).decode().strip()
        except (ApiError, binascii.Error, UnicodeDecodeError) as error:
            log.warning("Secret %s cannot be read: %s", wanted_key.name, type(error).__name__)
            return ""

    async def _write(self, resource: Object, new: Object) -> None:
        """The status and events of what has changed, if anything has."""
        old = resource.get("status")
        if not status.differs(old, new):
            return
        try:
            self._store.put(await self._kube.patch_status(resource, new))
        except ApiError as error:
            if error.code != 404:  # deleted meanwhile
                raise
            return
        for transition in status.transitions(old, new):
            await self._tell(resource, transition)

    async def _tell(self, resource: Object, transition: status.Transition) -> None:
        try:
            await self._kube.create(status.event(resource, transition, _now()))
        except ApiError as error:
            log.warning("no event %s: %s", transition.reason, error)

    def _again(self, decided: Verdict, view: View | None, engine: Any) -> float | None:
        """What changes without an event: a hub that answers again, a deadline, a download."""
        if decided.accepted is None:
            return SOON
        if not decided.accepted:
            return RETRY
        if view and view.progress and not view.progress.done:
            return SOON
        starting = view is not None and view.count("readyReplicas") < view.wanted
        unknown = view is not None and view.count("readyReplicas") > 0 and engine is None
        return RETRY if starting or unknown else None


def _tried(deployment: MIIDeployment) -> Collection[str]:
    """Kinds that hold what the manifest's author has written as it is."""
    overlaid = deployment.spec.pod_template != PodTemplate()
    return ("PersistentVolumeClaim", "Job", *(["Deployment"] if overlaid else []))


def _job(deployment: MIIDeployment, observed: Observed) -> Object | None:
    return observed.children.get(ChildKey("Job", job_name(deployment)))


def _names(items: Any) -> list[ChildKey]:
    return [ChildKey(item["kind"], item["metadata"]["name"]) for item in items]


def _now() -> datetime:
    return datetime.now(UTC)
