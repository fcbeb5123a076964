"""TLS over HTTP and gRPC, and a certificate that is renewed while connections are open."""

import asyncio
import shutil
import ssl
import subprocess

import aiohttp
import grpc
import pytest

from mii_gateway import mounted

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")

METHOD = "/modelresponse.ModelResponse/GeneratorReply"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mounted.changes, "__defaults__", (0.02,))


@pytest.fixture
def certify(tmp_path):
    """certify(): a new self-signed certificate in the folder; returns the folder."""
    folder = tmp_path / "tls"
    folder.mkdir()

    def make():
        command = [
            "openssl",
            "req",
            "-x509",
            "-nodes",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]
        command += ["-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(command, check=True, capture_output=True)
        for name in ("tls.key", "tls.crt"):
            (tmp_path / name).replace(folder / name)
        return folder

    return make


def trusting(folder):
    return ssl.create_default_context(cafile=folder / "tls.crt")


async def ask(port, trust):
    """One request on a connection of its own."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"https://127.0.0.1:{port}/v1/completions", json={}, ssl=trust) as response,
    ):
        return response.status


async def call(target, certificate):
    credentials = grpc.ssl_channel_credentials(certificate)
    async with grpc.aio.secure_channel(target, credentials) as channel:
        return await channel.unary_unary(METHOD)(b"x", timeout=5)


async def test_https_and_grpc(certify, start_replica, start_gateway):
    folder = certify()
    gateway = await start_gateway(await start_replica(), tls_dir=str(folder))
    assert await ask(gateway.port, trusting(folder)) == 200
    assert await call(gateway.grpc_target, (folder / "tls.crt").read_bytes()) == b"x"
    with pytest.raises(aiohttp.ClientError):
        await gateway.answer()  # in plain text
    async with gateway.session.get(gateway.probe_url + "/health/ready") as response:
        assert response.status == 200


async def test_a_renewed_certificate_counts_and_open_connections_go_on(
    certify, start_replica, start_gateway, stack
):
    folder = certify()
    first, first_pem = trusting(folder), (folder / "tls.crt").read_bytes()
    gateway = await start_gateway(await start_replica(), tls_dir=str(folder))
    session = await stack.enter_async_context(aiohttp.ClientSession())
    url = f"https://127.0.0.1:{gateway.port}/v1/completions"
    async with session.post(url, json={}, ssl=first) as response:
        await response.read()
    open_channel = await stack.enter_async_context(
        grpc.aio.secure_channel(gateway.grpc_target, grpc.ssl_channel_credentials(first_pem))
    )
    assert await open_channel.unary_unary(METHOD)(b"1") == b"1"

    certify()
    second, second_pem = trusting(folder), (folder / "tls.crt").read_bytes()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await ask(gateway.port, second) == 200
                break
            except aiohttp.ClientConnectorCertificateError:
                await asyncio.sleep(0.02)
    assert await call(gateway.grpc_target, second_pem) == b"x"
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await ask(gateway.port, first)
    async with session.post(url, json={}, ssl=first) as response:  # on the old connection
        assert response.status == 200
    assert await open_channel.unary_unary(METHOD)(b"2") == b"2"


async def test_an_unusable_certificate_changes_nothing(certify, start_replica, start_gateway, until, caplog):
    folder = certify()
    trust = trusting(folder)
    gateway = await start_gateway(await start_replica(), tls_dir=str(folder))
    (folder / "tls.key").write_text("no key")
    await until(lambda: "unusable" in caplog.text)
    assert await ask(gateway.port, trust) == 200
