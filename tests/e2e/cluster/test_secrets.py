"""No value of a Secret is in a log, a status, an event, any object but Secrets, or a process's arguments."""

import base64
import json
import urllib.error
import urllib.request
import uuid

import pytest

from .conftest import NAME
from .kube import kinds, kubectl, processes

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wrong():
    """What is neither a key nor a token, but was meant as one."""
    return f"wrong-{uuid.uuid4().hex}"


@pytest.fixture
def used(deployment, make_deployment, hub, api_key, token, wrong):
    """The values, after all of them have been used, to good effect and to bad; their namespace."""
    assert asked(deployment, api_key, max_tokens=4) == 200
    assert asked(deployment, api_key, max_tokens="many") == 400
    assert asked(deployment, wrong, max_tokens=4) == 401

    deployment.kubectl("create", "secret", "generic", "wrong", f"--from-literal=token={wrong}")
    refused = make_deployment(model="org/private", gpus=0, tokenSecretRef={"name": "wrong", "key": "token"})
    refused.condition("Accepted", "ModelAuthRequired")
    failing = make_deployment(
        model="org/private",
        gpus=0,
        tokenSecretRef={"name": "hub", "key": "token"},
        podTemplate={
            "spec": {"containers": [{"name": "server", "env": [{"name": "HF_ENDPOINT", "value": hub.url}]}]}
        },
    )
    failing.condition("Progressing", "CrashLooping")  # the hub knows the token, and has no weights
    yield deployment.namespace, {api_key, token, hub.token, wrong}
    deployment.kubectl("delete", "secret", "wrong")


def test_secrets_stay_secret(used):
    namespace, values = used
    objects = kubectl("get", kinds("secrets"), "-n", namespace, "-o", "yaml")
    said = logs(namespace)
    assert "ModelAuthRequired" in objects
    assert '"key": "load"' in said
    assert given_away(objects + said, *values) == []


def test_processes_have_no_secret_in_their_arguments(deployment, api_key, token):
    running = [process for pod in deployment.pods("server", "gateway") for process in processes(pod)]
    words = [word for process in running for word in process.cmdline()]
    assert "--cpu-threads=1" in words
    assert given_away("\n".join(words), api_key, token) == []


def given_away(text, *values):
    """Those that it has, plain or in base64."""
    encoded = {value: base64.b64encode(value.encode()).decode().rstrip("=") for value in values}
    return [value for value in values if value in text or encoded[value] in text]


def asked(deployment, key, **options):
    """The status of one request."""
    address = deployment.address()
    body = json.dumps({"model": NAME, "prompt": "One, two,", **options}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    url = f"http://{address.host}:{address.http_port}/v1/completions"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def logs(namespace):
    """Of all containers, those that have ended included."""
    pods = json.loads(kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    said = []
    for pod in pods:
        words = ("logs", pod["metadata"]["name"], "-n", namespace, "--all-containers")
        said += [kubectl(*words, check=False), kubectl(*words, "--previous", check=False)]
    return "\n".join(said)
