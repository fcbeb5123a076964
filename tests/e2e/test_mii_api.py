"""DeepSpeed-MII's Python surface on the real model: mii.pipeline, mii.serve, mii.client."""

import json
import subprocess
import sys
import urllib.request

import psutil
import pytest

import mii
from mii.errors import DeploymentNotFoundError, MIIError
from mii.local import ports, state

pytestmark = pytest.mark.slow

NAME = "smollm2-e2e"
PROMPTS = ["DeepSpeed is", "Seattle is"]
GREEDY = {"do_sample": False, "max_new_tokens": 16}
ENGINE = {"device": "cpu", "cpu_threads": 1, "kv_blocks": 64}


@pytest.fixture(scope="module")
def pipeline(smollm2):
    with mii.pipeline(str(smollm2), max_length=1024, inference_engine_config=ENGINE) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def expected(server):
    """What the server says to PROMPTS over HTTP, greedily."""
    body = {"prompt": PROMPTS, "max_tokens": 16, "temperature": 0}
    choices = post(server.url + "/v1/completions", body)["choices"]
    texts = [choice["text"] for choice in choices]
    assert all(texts)
    return texts


@pytest.fixture(scope="module")
def deployment(smollm2, tmp_path_factory):
    """mii.serve with two replicas and REST: its client and its REST port; no process outlives it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MII_CACHE_PATH", str(tmp_path_factory.mktemp("state")))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        rest_port = ports.free(1)[0]
        client = mii.serve(
            str(smollm2),
            deployment_name=NAME,
            replica_num=2,
            port_number=three_ports(),
            enable_restful_api=True,
            restful_api_port=rest_port,
            max_length=1024,
            inference_engine_config=ENGINE,
        )
        with client:
            yield client, rest_port
            if state.running():
                client.terminate_server()


def three_ports():
    """The first of three free ports in a row: for the deployment and its replicas."""
    while True:
        first = ports.free(1)[0]
        try:
            ports.require("127.0.0.1", {str(port): port for port in range(first, first + 3)})
        except MIIError:
            continue
        return first


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_a_pipeline_says_what_the_server_says(pipeline, expected):
    responses = pipeline(PROMPTS, **GREEDY)
    assert [response.generated_text for response in responses] == expected
    assert [str(response) for response in responses] == expected
    assert [response.generated_length for response in responses] == [16, 16]
    assert [response.finish_reason for response in responses] == ["length", "length"]
    assert [response.generated_text for response in pipeline(PROMPTS[0], **GREEDY)] == expected[:1]


def test_a_pipeline_returns_the_full_text(pipeline, expected):
    (response,) = pipeline(PROMPTS[0], return_full_text=True, **GREEDY)
    assert response.generated_text == PROMPTS[0] + expected[0]


def test_a_pipeline_stops_at_text(pipeline, expected):
    stop = expected[0][7:12]  # in the middle of tokens
    first, second = pipeline(PROMPTS, stop=[stop, "never said"], **GREEDY)
    assert first.generated_text == expected[0][: expected[0].index(stop)]
    assert first.finish_reason == "stop"
    assert second.generated_text == expected[1], "the other prompt's stop is none of its business"


def test_a_pipeline_writes_at_least_min_new_tokens(pipeline, dialogue):
    """The model's answer in its own chat format ends after eight tokens."""
    question, answer = dialogue
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    (short,) = pipeline(prompt, do_sample=False, max_new_tokens=32)
    assert (short.generated_text, short.generated_length, short.finish_reason) == (answer, 8, "stop")
    (longer,) = pipeline(prompt, do_sample=False, max_new_tokens=32, min_new_tokens=20)
    assert longer.generated_text.startswith(answer.removesuffix("."))
    assert 20 <= longer.generated_length <= 32


def test_a_destroyed_pipeline_says_so(smollm2):
    pipeline = mii.pipeline(str(smollm2), max_length=64, inference_engine_config=ENGINE | {"kv_blocks": 1})
    pipeline.destroy()
    with pytest.raises(RuntimeError, match="destroyed"):
        pipeline("hi")


def test_a_deployment_says_what_the_server_says(deployment, expected):
    client, _ = deployment
    responses = client(PROMPTS, **GREEDY)
    assert [response.generated_text for response in responses] == expected
    assert client.generate(PROMPTS[0], **GREEDY)[0].generated_text == expected[0]


def test_a_deployments_rest_api(deployment, expected):
    _, rest_port = deployment
    url = f"http://127.0.0.1:{rest_port}"
    replies = post(f"{url}/mii/{NAME}", {"prompts": PROMPTS, **GREEDY})
    assert [reply["generated_text"] for reply in replies] == expected
    assert replies[0].keys() == {"generated_text", "prompt_length", "generated_length", "finish_reason"}
    with urllib.request.urlopen(url + "/healthz", timeout=10) as response:
        assert response.read() == b"ok"


def test_a_deployment_streams(deployment, expected):
    client, _ = deployment
    pieces = []
    assert client.generate(PROMPTS[0], streaming_fn=pieces.extend, **GREEDY) is None
    assert "".join(piece.generated_text for piece in pieces) == expected[0]
    assert len(pieces) > 4
    assert [piece.finish_reason for piece in pieces[:-1]] == ["none"] * (len(pieces) - 1)
    assert (pieces[-1].finish_reason, pieces[-1].generated_length) == ("length", 16)


def test_another_process_finds_a_deployment_by_name(deployment, expected):
    program = (
        "import mii, sys\n"
        f"with mii.client({NAME!r}) as client:\n"
        f"    print(client.generate({PROMPTS[1]!r}, **{GREEDY!r})[0].generated_text, end='')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, expected[1]), ran.stderr


def test_terminate_server_leaves_no_process(deployment, children, lives):
    """The last test of the deployment."""
    client, _ = deployment
    supervisor = psutil.Process(state.find(NAME).pid)
    processes = [supervisor, *children(supervisor.pid)]
    engines = [process for process in processes if "mii.engine.process" in process.cmdline()]
    assert len(engines) == 2
    client.terminate_server()
    assert not any(map(lives, processes))
    assert state.running() == []
    with pytest.raises(DeploymentNotFoundError):
        mii.client(NAME)
