"""What `helm test` runs, against a stand-in for the API server, the operator and a deployment."""

import importlib.util
import json
import ssl
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Cluster(BaseHTTPRequestHandler):
    """Answers /healthz, the list of deployments, and OpenAI's API to whom brings the key."""

    def do_GET(self):
        server = self.server
        key = self.headers.get("Authorization")
        if self.path == "/healthz":
            self.reply(200, "ok")
        elif self.path.endswith("/miideployments"):
            self.reply(200 if key == "Bearer token" else 403, {"items": self.listed()})
        elif self.path == "/v1/models":
            self.reply(200 if key == server.wanted else 401, {"data": [{"id": "model"}]})

    def listed(self):
        """Those of the namespace in the path, or all."""
        parts = self.path.split("/")
        wanted = parts[parts.index("namespaces") + 1] if "namespaces" in parts else None
        return [d for d in self.server.deployments if wanted in (None, d["metadata"]["namespace"])]

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.prompts.append(asked)
        reply = {"choices": [{"text": " Paris."}], "usage": {"completion_tokens": 2}}
        self.reply(200 if self.headers.get("Authorization") == self.server.wanted else 401, reply)

    def reply(self, code, body):
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def cluster():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    server.deployments, server.prompts, server.wanted = [], [], None
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def request_script(chart, tmp_path, monkeypatch, cluster):
    spec = importlib.util.spec_from_file_location("request_script", chart / "files/request.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "token").write_text("token")
    monkeypatch.setattr(module, "ACCOUNT", str(tmp_path))
    # The stand-in speaks no TLS; that the real one's certificate is asked for is seen on a real cluster.
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: None)
    plain = module.get
    monkeypatch.setattr(
        module, "get", lambda url, *args, **kw: plain(url.replace("https:", "http:"), *args, **kw)
    )
    return module


@pytest.fixture
def run(request_script, cluster):
    def run(deployment="", namespaces="", **env):
        return request_script.main(
            {
                "OPERATOR": cluster.url,
                "DEPLOYMENT": deployment,
                "NAMESPACES": namespaces,
                "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_PORT": str(cluster.server_port),
                **env,
            }
        )

    return run


def resource(cluster, name, *, namespace="prod", ready="True"):
    status = {"url": cluster.url, "conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"namespace": namespace, "name": name}, "status": status}


def test_a_ready_deployment_is_sent_a_request(cluster, run, capsys):
    cluster.deployments = [resource(cluster, "loading", ready="False"), resource(cluster, "mistral")]
    assert run() == 0
    assert "prod/mistral answers: ' Paris.'" in capsys.readouterr().out
    assert [p["model"] for p in cluster.prompts] == ["model"]


def test_without_a_ready_one_the_operator_alone_is_asked(cluster, run, capsys):
    cluster.deployments = [{"metadata": {"namespace": "prod", "name": "new"}}]
    assert run() == 0
    assert "no request sent" in capsys.readouterr().out
    assert not cluster.prompts


def test_the_one_that_was_named_must_be_ready(cluster, run, capsys):
    cluster.deployments = [resource(cluster, "mistral"), resource(cluster, "llama", ready="False")]
    assert run("prod/mistral") == 0
    assert run("prod/llama") == 1
    assert "prod/llama" in capsys.readouterr().err


def test_in_the_watched_namespaces(cluster, run):
    cluster.deployments = [resource(cluster, "mistral", namespace="team-b")]
    assert run(namespaces="team-a,team-b") == 0
    assert len(cluster.prompts) == 1


def test_with_a_key(cluster, run):
    cluster.deployments = [resource(cluster, "mistral")]
    cluster.wanted = "Bearer sk-1"
    assert run(API_KEY="sk-1") == 0
    with pytest.raises(urllib.error.HTTPError, match="401"):
        run()
