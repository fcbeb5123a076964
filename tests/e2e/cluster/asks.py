"""Asks a deployment the same by HTTP and by gRPC, at once and streamed; prints what it says as JSON.

Runs in a pod, with nothing but what the server's image has: asks.py SERVICE
"""

import json
import sys
import urllib.request

import mii

SERVICE = sys.argv[1]
PROMPT = "The capital of France is"
TOKENS = 4


def post(path, **body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://{SERVICE}{path}", data, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=300)


def events(reply):
    """The JSON of each server-sent event, up to [DONE]."""
    for line in reply:
        if line.startswith(b"data: "):
            if line.strip() == b"data: [DONE]":
                return
            yield json.loads(line.removeprefix(b"data: "))
    raise EOFError("the stream ended without [DONE]")


def over_http():
    with urllib.request.urlopen(f"http://{SERVICE}/v1/models", timeout=300) as reply:
        model = json.load(reply)["data"][0]["id"]
    asked = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    with post("/v1/completions", **asked) as reply:
        whole = json.load(reply)["choices"][0]["text"]
    with post("/v1/completions", **asked, stream=True) as reply:
        pieces = [event["choices"][0]["text"] for event in events(reply)]
    with post(f"/mii/{SERVICE}", prompts=[PROMPT], max_new_tokens=TOKENS, do_sample=False) as reply:
        restful = json.load(reply)[0]["generated_text"]
    return {"HTTP": whole, "HTTP stream": pieces, "REST": restful}


def over_grpc():
    options = {"max_new_tokens": TOKENS, "do_sample": False}
    pieces = []
    with mii.client(SERVICE, host=SERVICE, port=50050) as client:
        whole = client(PROMPT, **options)[0].generated_text
        client.generate(PROMPT, lambda new: pieces.append(new[0].generated_text), **options)
    return {"gRPC": whole, "gRPC stream": pieces}


json.dump({**over_http(), **over_grpc()}, sys.stdout)
