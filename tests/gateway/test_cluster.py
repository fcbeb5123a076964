"""Discovery against a real API server, as the ServiceAccount and with the Role that the operator gives it.

Needs KUBECONFIG and kubectl; nothing has to run in that cluster.
"""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import uuid
from typing import Any

import pytest

from mii_gateway.discovery import Address
from mii_gateway.kube import ApiServer
from mii_gateway.kube_discovery import EndpointsDiscovery
from mii_operator.manifests import access
from mii_spec.spec import parse

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not os.environ.get("KUBECONFIG"),
        reason="no cluster: export KUBECONFIG of one that may be written to"
        ' (eval "$(../shared/devcluster/up --control-plane)", or kind)',
    ),
    pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed"),
]


def kubectl(*args: str, documents: list[Any] | None = None) -> str:
    text = None if documents is None else "".join(map(json.dumps, documents))
    done = subprocess.run(["kubectl", *args], input=text, capture_output=True, text=True, check=False)
    assert not done.returncode or args[0] == "auth", f"kubectl {' '.join(args)}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def namespace():
    name = f"gateway-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def account(namespace):
    """The gateway's, named mistral-gateway, with its Role."""
    document = {
        "apiVersion": "mii.dev/v1alpha1",
        "kind": "MIIDeployment",
        "metadata": {"name": "mistral", "namespace": namespace, "uid": "none"},
        "spec": {"model": "a/b"},
    }
    objects = access.objects(parse(document))
    for item in objects:
        del item["metadata"]["ownerReferences"]  # its owner is not there, so it would be collected
    kubectl("apply", "-f", "-", documents=objects)
    return "mistral-gateway"


@pytest.fixture(scope="module")
def api(namespace, account, tmp_path_factory):
    """The API server as a pod of that account has it mounted."""
    folder = tmp_path_factory.mktemp("account")
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    cluster = config["clusters"][0]["cluster"]
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    reply = json.loads(kubectl("create", "--raw", path, "-f", "-", documents=[request]))
    (folder / "token").write_text(reply["status"]["token"])
    (folder / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    return ApiServer(cluster["server"], folder)


def slice_(namespace: str, **hosts: bool) -> Any:
    """An EndpointSlice; `hosts` are last bytes of addresses, and whether these are ready."""
    versions = kubectl("api-versions").split()
    version = next(v for v in ("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1") if v in versions)
    return {
        "apiVersion": version,
        "kind": "EndpointSlice",
        "metadata": {
            "name": "by-hand",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": "mistral-server"},
        },
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [f"10.1.1.{host.strip('_')}"], "conditions": {"ready": ready}}
            for host, ready in hosts.items()
        ],
        "ports": [
            {"name": "http", "port": 8000, "protocol": "TCP"},
            {"name": "grpc", "port": 50050, "protocol": "TCP"},
        ],
    }


async def test_replicas_follow_the_slices(api, namespace):
    sets: asyncio.Queue[frozenset[Address]] = asyncio.Queue()

    async def follow():
        discovery = EndpointsDiscovery(api, namespace=namespace, service="mistral-server")
        async with contextlib.aclosing(discovery.watch()) as found:
            async for addresses in found:
                sets.put_nowait(addresses)

    async def expect(*hosts):
        addresses = await asyncio.wait_for(sets.get(), 10)
        assert addresses == {Address(f"10.1.1.{host}", 8000, 50050) for host in hosts}

    async def apply(**hosts):
        await asyncio.to_thread(kubectl, "apply", "-f", "-", documents=[slice_(namespace, **hosts)])

    task = asyncio.create_task(follow())
    await expect()
    await apply(_1=True, _2=True)
    await expect(1, 2)
    await apply(_1=False, _2=True)
    await expect(2)
    await asyncio.to_thread(kubectl, "delete", "endpointslice", "by-hand", "-n", namespace)
    await expect()
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("list", "endpointslices.discovery.k8s.io", "yes"),
        ("watch", "endpointslices.discovery.k8s.io", "yes"),
        ("list", "endpoints", "yes"),
        ("update", "endpoints", "no"),
        ("get", "secrets", "no"),
        ("list", "pods", "no"),
        ("create", "pods", "no"),
    ],
)
def test_the_account_may_do_no_more(namespace, account, verb, resource, allowed):
    user = f"--as=system:serviceaccount:{namespace}:{account}"
    assert kubectl("auth", "can-i", verb, resource, user, "-n", namespace) == allowed
