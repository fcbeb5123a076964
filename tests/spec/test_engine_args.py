"""Which of the server's options a manifest may set itself."""

from dataclasses import fields

import pytest

from mii_spec import engine_args
from mii_spec.launch import ServerArgs, flag, parse, to_argv


def test_every_option_is_either_the_manifests_or_owned():
    options = {flag(spec.name) for spec in fields(ServerArgs) if spec.name != "model"}
    owned = {flag(name) for name in engine_args.OWNED}
    assert owned < options
    assert set(engine_args.allowed_flags()) == options - owned


def test_what_may_be_set_arrives():
    args = ["--max-running=8", "--no-prefix-cache", "--log-level", "debug", "--tokenizer=org/name"]
    assert list(engine_args.check(args)) == []
    parsed = engine_args.parse(args)
    assert (parsed.max_running, parsed.prefix_cache, parsed.log_level) == (8, False, "debug")
    assert to_argv(parsed) == [
        "",
        "--tokenizer=org/name",
        "--max-running=8",
        "--no-prefix-cache",
        "--log-level=debug",
    ]


@pytest.mark.parametrize(
    "arg",
    [
        "--max-running=0",
        "--kv-blocks=-1",
        "--cpu-threads=0",
        "--heartbeat-timeout=0",
        "--heartbeat-timeout=nan",
    ],
)
def test_a_number_out_of_bounds_is_refused(arg):
    (error,) = engine_args.check([arg])
    assert arg.partition("=")[0] in str(error)
    assert "is not allowed; at least" in str(error)


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_is_a_number_of_16_bits(port, capsys):
    with pytest.raises(SystemExit) as end:
        parse(ServerArgs, ["m", f"--port={port}"])
    assert end.value.code == 2
    assert f"--port: {port} is not allowed; from 0 to 65535" in capsys.readouterr().err
