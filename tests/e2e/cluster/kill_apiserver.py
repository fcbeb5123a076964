"""Kills the API server of a ../shared/devcluster rig and starts it again: kill_apiserver.py FOLDER.

A program of its own, because what it starts outlives it. Needs ../shared/devcluster on PYTHONPATH.
"""

import os
import signal
import sys
import time
from pathlib import Path

from devcluster import Rig

NAME = "kube-apiserver"
AWAY = 5.0  # seconds

rig = Rig(sys.argv[1])
argv = Path(f"/proc/{rig.pid(NAME)}/cmdline").read_text().rstrip("\0").split("\0")
os.kill(rig.pid(NAME), signal.SIGKILL)
time.sleep(AWAY)
rig.spawn(NAME, argv)
