"""A program under supervision, for tests: `python fake_child.py MODE DIRECTORY [any options]`.

It answers /health/live and /health/ready on --port, and does at its next health check what the files in
DIRECTORY say: `sick` makes it fail liveness, `die` makes it exit with code 3, `unready` not ready, `end`
exit with code 0. It appends its pid to DIRECTORY/pids, and what it gets told to DIRECTORY/journal.
"""

import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE, DIRECTORY = sys.argv[1], Path(sys.argv[2])
OPTIONS = dict(option.split("=", 1) for option in sys.argv[3:] if "=" in option)


def note(file: str, text: object) -> None:
    with open(DIRECTORY / file, "a") as out:
        out.write(f"{text}\n")


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if (DIRECTORY / "die").exists():
            (DIRECTORY / "die").unlink()
            print("ERROR: told to die", file=sys.stderr, flush=True)
            os._exit(3)
        if (DIRECTORY / "end").exists():
            os._exit(0)
        trouble = "sick" if self.path.endswith("live") else "unready"
        self.send_response(503 if (DIRECTORY / trouble).exists() else 200)
        self.end_headers()
        self.wfile.write(b"as told")

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    note("pids", os.getpid())
    print("loading", flush=True)
    if MODE == "broken":
        print("ERROR: cannot load the model\nbecause of this", file=sys.stderr)
        sys.exit(1)
    if "parent" in MODE:
        grandchild = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        note("pids", grandchild.pid)
    server = ThreadingHTTPServer(("127.0.0.1", int(OPTIONS["--port"])), Health)

    def terminate(*_: object) -> None:
        note("journal", "SIGTERM")
        if "stubborn" not in MODE:
            threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, terminate)
    note("journal", "listening")
    server.serve_forever()
    note("journal", "ended")


main()
