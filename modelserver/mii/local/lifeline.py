"""Runs a program that must not outlive its supervisor: `python lifeline.py FD PROGRAM [ARGUMENT…]`.

    supervisor ══pipe══> sentinel: reads FD; at end of file it kills the process group
        └── wrapper ─exec─> PROGRAM, in the same group as its sentinel and its own children

Only the supervisor holds the pipe's write end, so the pipe ends however the supervisor ends, SIGKILL
included. Nothing has to run between fork and exec in the (threaded) supervisor, it works on every Unix,
and it reaches the program's own children too, which a parent-death signal would not.

Run as a plain file with `-I -S`, so it starts in milliseconds and imports nothing of ours.
"""

import os
import signal
import sys


def main(argv: list[str]) -> None:
    fd, program = int(argv[1]), argv[2:]
    if os.fork() == 0:
        _watch(fd)
    os.close(fd)
    os.execvp(program[0], program)


def _watch(fd: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # those are for the program, which may drain for minutes
    os.closerange(0, fd)
    while os.read(fd, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv)
