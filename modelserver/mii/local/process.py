"""One run of one program, in its own process group, that cannot outlive this process."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from mii.local import lifeline

_TAIL_BYTES = 16 * 1024
_ERROR = re.compile(r"\b(ERROR|CRITICAL)\b|^Traceback ")  # of logging's, and the interpreter's


class Process:
    """A started program. Its output goes to a log file; `last_words` reads it back."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline_end: int, log: Path, offset: int):
        self._process = process
        self._lifeline_end = lifeline_end
        self._log = log
        self._offset = offset  # where in the log this run begins

    @classmethod
    async def start(cls, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> "Process":
        """Starts `argv` with `env` added to this process's environment; output is appended to `log`."""
        read_end, write_end = os.pipe()  # neither is inherited, except read_end by pass_fds
        try:
            with _appending(log) as output:
                offset = output.tell()
                process = await asyncio.create_subprocess_exec(
                    *_wrapped(argv, read_end),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
                    pass_fds=(read_end,),
                    process_group=0,  # a Ctrl-C on the terminal is for the supervisor alone
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        return cls(process, write_end, log, offset)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """The exit code (negative: the signal), once the program and all of its group are gone."""
        code = await self._process.wait()
        self.kill()
        if self._lifeline_end >= 0:
            os.close(self._lifeline_end)
            self._lifeline_end = -1
        return code

    def terminate(self) -> None:
        """Asks the program, not its children, to finish."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the program and everything in its process group at once."""
        if self._lifeline_end < 0:
            return  # all gone; the group's number may be another's by now
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for zombies
            os.killpg(self.pid, signal.SIGKILL)

    def last_words(self) -> list[str]:
        """The lines in which this run has said why it ended, as far as one can tell."""
        return final_error(tail(self._log, self._offset))


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def final_error(lines: list[str], most: int = 12) -> list[str]:
    """From the last line that opens an error report on; without one, the last lines. Pure."""
    lines = lines[-most:]
    starts = [index for index, line in enumerate(lines) if _ERROR.search(line)]
    return lines[starts[-1] :] if starts else lines


def tail(log: Path, offset: int = 0) -> list[str]:
    """The non-empty lines in the last 16 KiB of a log, at most from `offset` on."""
    with open(log, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(offset, end - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _appending(log: Path) -> BinaryIO:
    return open(log, "ab")


def _wrapped(argv: Sequence[str], fd: int) -> list[str]:
    return [sys.executable, "-I", "-S", lifeline.__file__, str(fd), *argv]
