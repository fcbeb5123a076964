"""Gateways that speak TLS, whose certificate is renewed under load."""

import dataclasses
import shutil
import ssl

import pytest

from .certificates import Authority
from .conftest import NAME
from .endpoint import Trust
from .kube import wait_for
from .load import Load

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def name(deployment):
    """Of the Service, as clients in the cluster know it."""
    return f"{NAME}.{deployment.namespace}.svc"


@pytest.fixture(scope="module")
def secured(deployment, authority, name):
    """The deployment, with the Secret that its gateways' certificate comes from."""
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "tls"}}
    manifest = {**secret, "stringData": authority.issue(name)}
    deployment.kubectl("apply", "-f", "-", manifest=manifest)
    deployment.change(gateway={"tlsSecretRef": {"name": "tls"}})
    yield deployment
    deployment.change(gateway={"tlsSecretRef": None})
    deployment.kubectl("delete", "secret", "tls")


@pytest.fixture(scope="module")
def load(secured, authority, name, api_key):
    address = dataclasses.replace(secured.address(), tls=Trust(name, authority.certificate))
    with Load(address, NAME, api_key) as load:
        yield load


def test_a_certificate_is_renewed(secured, authority, name, none_fails):
    renewed = authority.issue(name)
    with none_fails("certificate renewed"):
        secured.write_secret("tls", renewed)
        wait_for(lambda: shown(secured) == {renewed["tls.crt"].strip()}, "every gateway shows the new one")
    assert secured.get("mii", NAME)["status"]["url"].startswith("https://")


def shown(deployment):
    """The certificates that the gateways show on either port, as PEM."""
    hosts = [pod["status"]["podIP"] for pod in deployment.pods("gateway")]
    return {ssl.get_server_certificate((host, port)).strip() for host in hosts for port in (8000, 50050)}
