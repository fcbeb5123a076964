"""API keys: who gets in, who is told what, and that keys are seen nowhere."""

import json

import grpc
import pytest

from mii_gateway import mounted
from mii_gateway.errors import Refusal
from mii_gateway.keys import KeyRing

METHOD = "/modelresponse.ModelResponse/GeneratorReply"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mounted.changes, "__defaults__", (0.02,))


@pytest.fixture
def folder(tmp_path):
    """As the kubelet mounts a Secret: files are links into a folder that is swapped as a whole."""
    (tmp_path / "..1").mkdir()
    (tmp_path / "..data").symlink_to("..1")
    for name, key in (("alice", "sk-alice\n"), ("bob", "sk-bob"), ("nobody", "\n")):
        (tmp_path / "..1" / name).write_text(key)
        (tmp_path / name).symlink_to(f"..data/{name}")
    return tmp_path


@pytest.mark.parametrize(
    ("header", "tenant"),
    [
        ("Bearer sk-alice", "alice"),
        ("bearer  sk-bob ", "bob"),
        (b"Bearer sk-bob", "bob"),
        *((header, None) for header in (None, "", "sk-bob", "Basic sk-bob", "Bearer", "Bearer ")),
        *((header, None) for header in ("Bearer sk-bo", "Bearer sk-bobb", "Bearer \udcff")),
    ],
)
def test_who_a_header_is(folder, header, tenant):
    ring = KeyRing(folder)
    if tenant:
        assert ring.authenticate(header) == tenant
    else:
        with pytest.raises(Refusal, match="API key") as refusal:
            ring.authenticate(header)
        assert refusal.value.status == 401


def test_without_a_folder_everybody_may_and_without_keys_nobody(tmp_path):
    assert KeyRing(None).authenticate(None) == ""
    with pytest.raises(Refusal):
        KeyRing(tmp_path).authenticate("Bearer ")


async def test_without_a_key_401_in_openais_words(folder, start_replica, start_gateway):
    replica = await start_replica()
    gateway = await start_gateway(replica, api_keys_dir=str(folder))
    for path in ("/v1/completions", "/mii/demo", "/mii/other", "/v1/info", "/anything"):
        async with gateway.post(path) as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            error = (await response.json())["error"]
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert not replica.requests
    for url in (gateway.url, gateway.probe_url):
        async with gateway.session.get(url + "/health/ready") as response:
            assert response.status == 200


async def test_with_a_key_the_replica_answers_and_does_not_see_it(
    folder, start_replica, start_gateway, caplog, until
):
    replica = await start_replica()
    gateway = await start_gateway(replica, api_keys_dir=str(folder))
    with caplog.at_level("INFO"):
        assert (await gateway.answer(headers={"Authorization": "Bearer sk-alice"}))[0] == 200
        assert (await gateway.answer(headers={"Authorization": "Bearer sk-wrong"}))[0] == 401
        await until(lambda: sum(r.name == "mii_gateway.access" for r in caplog.records) == 2)
    assert "Authorization" not in replica.requests[0].headers
    fields = [vars(record).get("fields") for record in caplog.records]
    assert [f["key"] for f in fields if f and "status" in f] == ["alice", ""]
    async with gateway.session.get(gateway.probe_url + "/metrics") as response:
        metrics = await response.text()
    assert 'mii_gateway_key_requests_total{key="alice"} 1.0' in metrics
    assert "sk-" not in metrics + json.dumps(fields, default=str)


async def test_without_required_keys_the_header_passes(start_replica, start_gateway):
    replica = await start_replica()
    gateway = await start_gateway(replica)
    await gateway.answer(headers={"Authorization": "Bearer for-the-replica"})
    assert replica.requests[0].headers["Authorization"] == "Bearer for-the-replica"


async def test_changed_keys_count_without_a_restart(folder, start_replica, start_gateway):
    replica = await start_replica()
    gateway = await start_gateway(replica, api_keys_dir=str(folder))

    async def status(key):
        return (await gateway.answer(headers={"Authorization": f"Bearer {key}"}))[0]

    assert [await status("sk-alice"), await status("sk-new")] == [200, 401]
    (folder / "..2").mkdir()
    (folder / "..2" / "alice").write_text("sk-new")
    (folder / "..next").symlink_to("..2")
    (folder / "..next").replace(folder / "..data")
    for _ in range(200):
        if await status("sk-new") == 200:
            break
    assert [await status("sk-alice"), await status("sk-bob"), await status("sk-new")] == [401, 401, 200]


async def test_grpc_needs_a_key_too_but_health_does_not(folder, start_replica, start_gateway, channel):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    replica = await start_replica()
    gateway = await start_gateway(replica, api_keys_dir=str(folder))
    client = await channel(gateway.grpc_target)
    for metadata in (None, (("authorization", "Bearer no"),)):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.unary_unary(METHOD)(b"x", metadata=metadata)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await client.unary_unary(METHOD)(b"x", metadata=(("authorization", "Bearer sk-bob"),)) == b"x"
    assert "authorization" not in replica.calls[0][1]
    health = health_pb2_grpc.HealthStub(client)
    reply = await health.Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
