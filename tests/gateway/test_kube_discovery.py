"""Following the API server: versions, watches that end, outages, old servers."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web

from mii_gateway import kube_discovery
from mii_gateway.discovery import Address
from mii_gateway.kube import ApiServer, in_cluster, own_namespace
from mii_gateway.kube_discovery import EndpointsDiscovery, Expired, Known, pause

V1 = "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices"
V1BETA1 = "/apis/discovery.k8s.io/v1beta1/namespaces/prod/endpointslices"
ENDPOINTS = "/api/v1/namespaces/prod/endpoints"
PORTS = [{"name": "http", "port": 8000}, {"name": "grpc", "port": 50050}]


def slice_(version, *hosts, name="s"):
    return {
        "metadata": {"name": name, "resourceVersion": str(version)},
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in hosts],
        "ports": PORTS,
    }


def event(version, *hosts, kind="MODIFIED"):
    return {"type": kind, "object": slice_(version, *hosts)}


class FakeApi:
    """Serves one collection; a test queues what watches say. None ends a watch."""

    def __init__(self, path):
        self.path = path
        self.listed = slice_(1, "10.0.0.1")
        self.events = asyncio.Queue()
        self.refusals = []  # statuses for the next requests
        self.asked = []  # (path, query, Authorization)
        self.port = 0

    async def start(self):
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.port = self.runner.addresses[0][1]

    @property
    def watches(self):
        return [query["resourceVersion"] for _, query, _ in self.asked if "watch" in query]

    async def _handle(self, request):
        self.asked.append((request.path, dict(request.query), request.headers.get("Authorization")))
        if request.path != self.path:
            raise web.HTTPNotFound
        if self.refusals:
            return web.Response(status=self.refusals.pop(0))
        if "watch" not in request.query:
            version = self.listed["metadata"]["resourceVersion"]
            return web.json_response({"metadata": {"resourceVersion": version}, "items": [self.listed]})
        response = web.StreamResponse()
        await response.prepare(request)
        while (said := await self.events.get()) is not None:
            await response.write(json.dumps(said).encode() + b"\n")
        return response


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(kube_discovery, "LONGEST_PAUSE", 0.1)


@pytest.fixture
def follow(stack):
    """Starts an API server that has `path`, and follows it; returns it and the sets of hosts seen."""

    async def start(path=V1, account=None, **fields):
        api = FakeApi(path)
        vars(api).update(fields)
        await api.start()
        stack.push_async_callback(lambda: api.runner.cleanup())
        server = ApiServer(f"http://127.0.0.1:{api.port}", account)
        seen = []

        async def watch():
            discovery = EndpointsDiscovery(server, namespace="prod", service="server")
            async with contextlib.aclosing(discovery.watch()) as sets:
                async for addresses in sets:
                    seen.append({address.host for address in addresses})

        task = asyncio.create_task(watch())
        stack.callback(task.cancel)
        return api, seen

    return start


@pytest.mark.parametrize("path", [V1, V1BETA1])
async def test_lists_then_watches(follow, until, path):
    api, seen = await follow(path)
    api.events.put_nowait(event(2, "10.0.0.1", "10.0.0.2"))
    api.events.put_nowait(event(3, kind="DELETED"))
    await until(lambda: seen == [{"10.0.0.1"}, {"10.0.0.1", "10.0.0.2"}, set()])
    assert {query["labelSelector"] for path, query, _ in api.asked} == {"kubernetes.io/service-name=server"}


async def test_endpoints_where_slices_are_missing(follow, until):
    listed = {
        "metadata": {"name": "server", "resourceVersion": "1"},
        "subsets": [{"addresses": [{"ip": "10.0.0.9"}], "ports": PORTS}],
    }
    api, seen = await follow(ENDPOINTS, listed=listed)
    await until(lambda: seen == [{"10.0.0.9"}])
    assert api.asked[-1][1]["fieldSelector"] == "metadata.name=server"


async def test_a_watch_that_ends_goes_on_from_the_last_version(follow, until):
    api, seen = await follow()
    api.events.put_nowait(event(7, "10.0.0.2"))
    api.events.put_nowait(event(9, kind="BOOKMARK"))
    api.events.put_nowait(None)
    api.events.put_nowait(event(10, "10.0.0.3"))
    await until(lambda: seen and seen[-1] == {"10.0.0.3"})
    assert api.watches == ["1", "9"]
    assert set() not in seen


@pytest.mark.parametrize("gone_by_event", [True, False])
async def test_a_version_that_is_too_old_is_listed_anew(follow, until, gone_by_event):
    api, seen = await follow()
    await until(lambda: api.watches == ["1"])
    api.listed = slice_(20, "10.0.0.5")
    if gone_by_event:
        api.events.put_nowait({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    else:
        api.refusals = [410]
        api.events.put_nowait(None)
    await until(lambda: seen == [{"10.0.0.1"}, {"10.0.0.5"}])
    await until(lambda: api.watches[-1] == "20")


async def test_an_outage_keeps_what_is_known_and_the_watch_resumes(follow, until):
    api, seen = await follow()
    await until(lambda: api.watches == ["1"])
    await api.runner.cleanup()
    await asyncio.sleep(0.3)  # some attempts fail
    assert seen == [{"10.0.0.1"}]
    await api.start()
    api.events.put_nowait(event(2, "10.0.0.2"))
    await until(lambda: seen == [{"10.0.0.1"}, {"10.0.0.2"}])
    assert set(api.watches) == {"1"}


async def test_refusals_are_retried(follow, until):
    _, seen = await follow(refusals=[503, 403, 500])
    await until(lambda: seen == [{"10.0.0.1"}])


async def test_slices_of_any_size_are_read(follow, until):
    api, seen = await follow()
    hosts = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(5000)]
    api.events.put_nowait(event(2, *hosts))
    await until(lambda: seen and len(seen[-1]) == 5000)


async def test_the_token_is_read_anew(follow, until, tmp_path, monkeypatch):
    monkeypatch.setattr("ssl.create_default_context", lambda cafile: None)
    (tmp_path / "token").write_text("first\n")
    api, _ = await follow(account=tmp_path)
    await until(lambda: api.watches)
    (tmp_path / "token").write_text("second\n")
    api.events.put_nowait(None)
    await until(lambda: len(api.watches) == 2)
    tokens = [token for path, _, token in api.asked]
    assert (tokens[0], tokens[-1]) == ("Bearer first", "Bearer second")


async def test_leaving_endpoints_get_no_new_requests_while_running_ones_finish(
    start_replica, start_gateway, until
):
    leaving, staying = await start_replica(), await start_replica()
    released, sets = asyncio.Event(), asyncio.Queue()

    class Scripted:
        async def watch(self):
            while True:
                yield await sets.get()

    def addresses(*replicas):
        return frozenset(Address("127.0.0.1", replica.http_port, replica.grpc_port) for replica in replicas)

    async def hold(request):
        await released.wait()
        return web.json_response({"replica": "held"})

    gateway = await start_gateway(discovery=Scripted(), wait=False)
    async with gateway.session.get(gateway.probe_url + "/health/ready") as response:
        assert response.status == 503
    leaving.respond = hold
    sets.put_nowait(addresses(leaving))
    held = asyncio.create_task(gateway.answer())
    await until(lambda: leaving.requests)
    sets.put_nowait(addresses(staying))
    await until(lambda: [replica.state for replica in gateway.gateway.table.all()] == ["ready"])
    for _ in range(5):
        assert await gateway.answer() == (200, {"replica": staying.name})
    released.set()
    assert await held == (200, {"replica": "held"})


def test_known_follows_events():
    [source, *_] = kube_discovery.sources("prod", "server")
    known = Known(source, {"metadata": {"resourceVersion": "1"}})
    known.apply({"type": "ADDED", "object": slice_(2, "10.0.0.1", name="a")})
    known.apply({"type": "ADDED", "object": slice_(3, "10.0.0.2", name="b")})
    known.apply({"type": "DELETED", "object": slice_(4, "10.0.0.1", name="a")})
    assert ({address.host for address in known.addresses}, known.version) == ({"10.0.0.2"}, "4")
    with pytest.raises(Expired):
        known.apply({"type": "ERROR", "object": {"code": 410}})


def test_pauses_grow_to_a_limit():
    assert all(0.1 <= pause(failures) <= 0.1 for failures in (0, 100))


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "https://10.96.0.1:443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://[fd00::1]:6443"),
    ],
)
def test_in_cluster(environment, url, tmp_path):
    assert in_cluster(environment, tmp_path) == ApiServer(url, tmp_path)


def test_own_namespace(tmp_path):
    with pytest.raises(ValueError, match="namespace is not known"):
        own_namespace(tmp_path)
    (tmp_path / "namespace").write_text("prod\n")
    assert own_namespace(tmp_path) == "prod"
