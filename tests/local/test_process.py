import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest

from mii.local.process import Process, describe_exit, final_error

SUPERVISOR = """
import asyncio, pathlib, sys
from mii.local.process import Process

async def main():
    for _ in range(int(sys.argv[2])):
        await Process.start(sys.argv[3:], env={}, log=pathlib.Path(sys.argv[1]))
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def python(code):
    return [sys.executable, "-c", code]


async def finished(argv, log, **env):
    process = await Process.start(argv, env=env, log=log)
    return await process.wait(), process


async def test_reports_exit_code_and_last_words(tmp_path):
    code, process = await finished(python("print('a'); raise SystemExit(7)"), tmp_path / "log")
    assert code == 7
    assert process.last_words() == ["a"]


async def test_environment_is_added_to_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    code = "import os; print(os.environ['OURS'], os.environ['THEIRS'])"
    _, process = await finished(python(code), tmp_path / "log", THEIRS="2")
    assert process.last_words() == ["1 2"]


async def test_last_words_are_of_this_run_only(tmp_path):
    await finished(python("print('first')"), tmp_path / "log")
    _, process = await finished(python("print('second')"), tmp_path / "log")
    assert process.last_words() == ["second"]


async def test_a_program_that_does_not_exist_says_so(tmp_path):
    code, process = await finished(["/nowhere/program"], tmp_path / "log")
    assert code != 0
    assert "No such file" in process.last_words()[-1]


async def test_grandchildren_end_with_the_program(fake, tmp_path, alive, eventually):
    spec = fake.spec(mode="parent")
    process = await Process.start(spec.argv, env={}, log=tmp_path / "log")
    await eventually(lambda: len(fake.pids()) == 2)
    program, grandchild = fake.pids()
    os.kill(program, signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    await eventually(lambda: not alive(grandchild), "the grandchild's end")


@asynccontextmanager
async def supervisor(log, argv, *, children=1):
    """Another Python process that has started `argv`; killed, as by kill -9, when the block ends."""
    command = [sys.executable, "-c", SUPERVISOR, str(log), str(children), *argv]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert await process.stdout.readline() == b"started\n"
        yield
    finally:
        process.kill()
        await process.wait()


async def test_a_killed_supervisor_leaves_nothing(fake, tmp_path, alive, eventually):
    async with supervisor(tmp_path / "log", fake.spec(mode="parent").argv):
        await eventually(lambda: len(fake.pids()) == 2)
        assert all(map(alive, fake.pids()))
    await eventually(lambda: not any(map(alive, fake.pids())), "the end of program and grandchild")


async def test_children_do_not_keep_each_other_alive(tmp_path, alive, eventually):
    """Were a lifeline's write end inherited by another child, it would not end with the supervisor."""
    pids = tmp_path / "pids"
    note = f"import os, signal; open({str(pids)!r}, 'a').write(f'{{os.getpid()}} '); signal.pause()"
    async with supervisor(tmp_path / "log", python(note), children=2):
        await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    await eventually(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


async def test_terminate_is_for_the_program_alone(fake, tmp_path, eventually, alive):
    """A drain needs the program's own children, such as an engine."""
    process = await Process.start(fake.spec(mode="stubborn-parent").argv, env={}, log=tmp_path / "log")
    await eventually(lambda: len(fake.pids()) == 2)
    await eventually(lambda: fake.journal() == ["listening"])
    process.terminate()
    await eventually(lambda: fake.journal() == ["listening", "SIGTERM"])
    assert all(map(alive, fake.pids()))
    process.kill()
    async with asyncio.timeout(20):
        await process.wait()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "exit code 1"),
        (-15, "killed by SIGTERM"),
        (-9, "killed by SIGKILL (out of memory?)"),
        (-99, "killed by signal 99"),
    ],
)
def test_exit_codes_in_words(code, words):
    assert describe_exit(code) == words


def test_the_final_error_is_what_is_kept():
    log = ["INFO loading", "ERROR mii: first", "INFO more", "ERROR mii: cannot load", "  tensor x"]
    assert final_error(log) == ["ERROR mii: cannot load", "  tensor x"]
    assert final_error(["a", "b"]) == ["a", "b"]
    assert final_error([f"line {n}" for n in range(50)], most=2) == ["line 48", "line 49"]
