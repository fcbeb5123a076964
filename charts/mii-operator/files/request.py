"""`helm test`: is the operator alive, and does a MIIDeployment that is Ready answer? Changes nothing."""

import json
import os
import ssl
import sys
import urllib.request

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
API = "/apis/mii.dev/v1alpha1"
SECONDS = 120  # for the answer of a model


def main(env=os.environ):
    """The exit code. Refusals of the API server and of the deployment end it as exceptions."""
    get(env["OPERATOR"] + "/healthz")
    print("the operator is alive")
    deployment = choose(find(env), env["DEPLOYMENT"])
    if deployment is None:
        if env["DEPLOYMENT"]:
            print(f"there is no MIIDeployment {env['DEPLOYMENT']} that is Ready", file=sys.stderr)
            return 1
        print("no MIIDeployment is Ready: no request sent")
        return 0
    print(name(deployment), "answers:", repr(ask(deployment["status"]["url"], env.get("API_KEY"))))
    return 0


def find(env):
    """Every MIIDeployment that the operator sees."""
    with open(f"{ACCOUNT}/token") as file:
        headers = {"Authorization": f"Bearer {file.read()}"}
    server = f"https://{env['KUBERNETES_SERVICE_HOST']}:{env['KUBERNETES_SERVICE_PORT']}"
    trust = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    namespaces = [f"/namespaces/{name}" for name in env["NAMESPACES"].split(",") if name] or [""]
    lists = [get(f"{server}{API}{part}/miideployments", headers, context=trust) for part in namespaces]
    return [item for found in lists for item in json.loads(found)["items"]]


def choose(deployments, wanted):
    """The wanted one, or else the first, of those that are Ready; None if there is none."""
    ready = [d for d in deployments if is_ready(d) and wanted in ("", name(d))]
    return ready[0] if ready else None


def is_ready(deployment):
    conditions = deployment.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def name(deployment):
    return "{namespace}/{name}".format(**deployment["metadata"])


def ask(url, key):
    """A few tokens of the deployment's model."""
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    model = json.loads(get(f"{url}/v1/models", headers))["data"][0]["id"]
    body = {"model": model, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
    reply = json.loads(get(f"{url}/v1/completions", headers, data=json.dumps(body).encode()))
    assert reply["usage"]["completion_tokens"] > 0, reply
    return reply["choices"][0]["text"]


def get(url, headers=None, *, data=None, context=None):
    """The reply's body; POST with data. Raises for anything but success."""
    request = urllib.request.Request(url, data=data, headers=headers or {})
    with urllib.request.urlopen(request, timeout=SECONDS, context=context) as reply:
        return reply.read()


if __name__ == "__main__":
    sys.exit(main())
