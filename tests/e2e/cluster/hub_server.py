"""A Hugging Face hub of facts alone: hub_server.py FOLDER TOKEN_FILE

Serves FOLDER/NAME as the config.json of `org/NAME`, and one gigabyte as the size of its weights. The model
`private` is for those who send the token.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER, TOKEN = map(Path, sys.argv[1:])
SIZE = {"metadata": {"total_size": 10**9}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, _, file = self.path.removeprefix("/org/").partition("/resolve/main/")
        config = FOLDER / name
        if not config.is_file():
            self.answer(401, {}, "RepoNotFound")
        elif name == "private" and self.headers["Authorization"] != f"Bearer {TOKEN.read_text()}":
            self.answer(401, {}, "GatedRepo")
        elif file == "config.json":
            self.answer(200, json.loads(config.read_text()))
        elif file == "model.safetensors.index.json":
            self.answer(200, SIZE)
        else:
            self.answer(404, {}, "EntryNotFound")

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def answer(self, status, body, code=""):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)


ThreadingHTTPServer(("", 8000), Handler).serve_forever()
