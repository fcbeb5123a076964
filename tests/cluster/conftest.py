"""Objects as the API server gives them, and a kubectl that answers with them."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

Object = dict[str, Any]

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EARLIER = "2026-01-01T11:55:00Z"


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def resource() -> Callable[..., Object]:
    """resource({type: (status, reason, message)}, **spec): a MIIDeployment with these conditions."""

    def make(conditions: dict[str, tuple[str, str, str]] | None = None, **spec: Any) -> Object:
        metadata = {"name": "m", "namespace": "prod", "uid": "uid-m", "generation": 2}
        found = [
            {"type": t, "status": s, "reason": r, "message": m, "lastTransitionTime": EARLIER}
            for t, (s, r, m) in (conditions or {}).items()
        ]
        status = {"observedGeneration": 2, "summary": "0/1", "url": "http://m.prod.svc", "conditions": found}
        return {
            "kind": "MIIDeployment",
            "metadata": {**metadata, "creationTimestamp": EARLIER},
            "spec": {"model": "org/model", **spec},
            "status": status if conditions else {},
        }

    return make


@pytest.fixture
def pod() -> Callable[..., Object]:
    """pod(**status): a server's."""

    def make(name: str = "m-server-x", **status: Any) -> Object:
        labels = {"app.kubernetes.io/component": "server"}
        metadata = {"name": name, "uid": f"uid-{name}", "labels": labels, "creationTimestamp": EARLIER}
        return {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": "Pending", **status}}

    return make


@pytest.fixture
def event() -> Callable[..., Object]:
    """event(uid, reason, **rest): about the object with this uid."""

    def make(uid: str, reason: str, **rest: Any) -> Object:
        about = {"kind": "Pod", "name": "p", "uid": uid}
        return {
            "metadata": {"creationTimestamp": EARLIER},
            "involvedObject": about,
            "reason": reason,
            "message": f"{reason} happened",
            **rest,
        }

    return make


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """kubectl({kinds: answer}): a program of that name. A text is printed as a complaint, with exit code 1.

    The file that is returned holds each call's words as a JSON list, one a line.
    """

    def make(answers: dict[str, Any]) -> Path:
        calls, program = tmp_path / "calls", tmp_path / "kubectl"
        (tmp_path / "answers.json").write_text(json.dumps(answers))
        program.write_text(
            f"#!{sys.executable}\n"
            "import json, sys, pathlib\n"
            f"folder = pathlib.Path({str(tmp_path)!r})\n"
            "with (folder / 'calls').open('a') as calls:\n"
            "    print(json.dumps(sys.argv[1:]), file=calls)\n"
            "answers = json.loads((folder / 'answers.json').read_text())\n"
            "words = ' '.join(sys.argv[1:])\n"
            "answer = next((a for start, a in answers.items() if words.startswith(start)), {'items': []})\n"
            "if isinstance(answer, str):\n"
            "    sys.exit(answer)\n"
            "print(json.dumps(answer))\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return calls

    return make
