"""Which of the server's options a manifest may set itself."""

from dataclasses import fields

from mii_spec import engine_args
from mii_spec.launch import ServerArgs, flag, to_argv


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
