"""`mii fetch`: what its lines say."""

import json
import os
import subprocess
import sys

from mii import fetch_command


def test_a_failure_is_the_last_line(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "mii.cli", "fetch", "org/absent"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "org/absent" in json.loads(done.stdout.splitlines()[-1])["error"]


def test_half_downloaded_files_count_and_links_do_not(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/a.incomplete").write_bytes(b"x" * 8192)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs/a.incomplete")
    assert fetch_command.stored(tmp_path) == 8192
