"""How to talk to a deployment from a shell that has the cluster's kubectl. Pure."""

import json
from collections.abc import Mapping
from shlex import quote
from typing import Any

_PORT = 8000  # of this machine


def commands(resource: Mapping[str, Any], kubectl: str) -> list[str]:
    """Lines to paste, the last of them a request."""
    metadata, spec = resource["metadata"], resource["spec"]
    gateway = spec.get("gateway") or {}
    keys, tls = gateway.get("apiKeysSecretRef"), gateway.get("tlsSecretRef")
    in_namespace = f"{kubectl} -n {metadata['namespace']}"
    forward = f"{in_namespace} port-forward service/{metadata['name']} {_PORT}:80 &"
    return [forward, *([_key(in_namespace, keys["name"])] if keys else []), _curl(spec, keys, tls)]


def _key(kubectl: str, secret: str) -> str:
    """The first of the Secret's keys."""
    template = """'{{range .data}}{{. | base64decode}}{{"\\n"}}{{end}}'"""
    return f"KEY=$({kubectl} get secret {secret} -o go-template={template} | head -1)"


def _curl(spec: Mapping[str, Any], keys: Any, tls: Any) -> str:
    scheme, insecure = ("https", "-k ") if tls else ("http", "")
    body = {
        "model": spec.get("servedName") or spec["model"],
        "messages": [{"role": "user", "content": "Hello"}],
    }
    key = """ -H "authorization: Bearer $KEY\"""" if keys else ""
    return (
        f"curl {insecure}{scheme}://127.0.0.1:{_PORT}/v1/chat/completions{key}"
        f" -H 'content-type: application/json' -d {quote(json.dumps(body))}"
    )
