"""The command lines of the model server and the gateway, in both directions.

    spec ─> ServerArgs ─to_argv─> ["org/model", "--…"] ─in a container or a process─> parse ─> ServerArgs

One dataclass is the only place where an option's name, type, default and help stand; the manifests, `mii up`
and the programs themselves all go through it, so they cannot drift apart.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

HIGHEST_PORT = 65535


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A dataclass field that is also a command-line option; a number must be from `least` to `most`."""
    return field(default=default, metadata={"help": text, **metadata})


@dataclass(frozen=True, kw_only=True)
class ServerArgs:
    """`mii serve`: one model server, which owns one engine."""

    model: str = field(metadata={"help": "Hugging Face id, directory, .gguf file or URL", "positional": True})
    revision: str = option("main", "branch, tag or commit of a Hugging Face model")
    tokenizer: str | None = option(
        None, "Hugging Face id or directory of the tokenizer; default: the model's"
    )
    served_model_name: str | None = option(None, "name in the OpenAI API; default: the model as given")
    deployment_name: str | None = option(
        None, "name in POST /mii/NAME; default: NAME-mii-deployment of the model"
    )
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "HTTP port", least=0, most=HIGHEST_PORT)
    grpc_port: int = option(50050, "gRPC port", least=0, most=HIGHEST_PORT)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    dtype: str = option("auto", "weights and activations", choices=("auto", "float32", "bfloat16", "float16"))
    max_model_len: int | None = option(
        None, "tokens of prompt and output together; default: the model's", least=2
    )
    token_budget: int | None = option(None, "tokens per forward; default: by device", least=1)
    max_running: int = option(256, "sequences that run at once", least=1)
    kv_memory_fraction: float = option(
        0.9, "share of the free device memory for the KV cache", least=0.01, most=1
    )
    kv_blocks: int | None = option(None, "KV blocks of 64 tokens; overrides the fraction", least=1)
    prefix_cache: bool = option(True, "reuse KV blocks of equal prompt prefixes")
    overlap: bool | None = option(None, "schedule a step ahead; default: by device")
    cuda_graphs: bool = option(True, "replay decode steps from CUDA graphs, where our kernels run")
    prepack_weights: bool = option(True, "copy weights into the layout that the CPU multiplies fastest")
    kernels: str = option(
        "auto",
        "what a GPU runs: cuda, our kernels; torch, PyTorch's operations; auto: cuda where it can",
        choices=("auto", "cuda", "torch"),
    )
    random_weights: bool = option(False, "random weights (benchmarks): only config and tokenizer are read")
    tensor_parallel: int = option(1, "GPUs that share one model; on a CPU, processes", least=1)
    peer_memory: bool = option(True, "sum over GPUs through each other's memory where they can, else by NCCL")
    quantization: str = option(
        "none", "fp8: attention and MLP in 8-bit floats, quantised at load", choices=("none", "fp8")
    )
    cpu_threads: int | None = option(
        None,
        "threads that compute on a CPU or read weights for GPUs, all ranks together; default: all cores",
        least=1,
    )
    heartbeat_timeout: float = option(
        60.0, "seconds a step may take before the engine counts as stalled", least=0.1
    )
    drain_timeout: float = option(120.0, "seconds that running requests get after SIGTERM", least=0)
    max_body_bytes: int = option(16 * 1024 * 1024, "largest HTTP request body", least=1)
    owner_token_file: str | None = option(None, "file with the token that gRPC Terminate must present")
    log_level: str = option("info", "verbosity", choices=("debug", "info", "warning", "error"))


@dataclass(frozen=True, kw_only=True)
class GatewayArgs:
    """`mii-gateway`: the one address in front of the replicas."""

    deployment_name: str = field(metadata={"help": "name in POST /mii/NAME"})
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "HTTP port", least=0, most=HIGHEST_PORT)
    grpc_port: int = option(50050, "gRPC port", least=0, most=HIGHEST_PORT)
    probe_port: int = option(8081, "port of the gateway's own /health/live, /health/ready and /metrics")
    replica: tuple[str, ...] = option((), "a replica as HTTP_HOST:PORT/GRPC_PORT; give it once per replica")
    endpoints_service: str | None = option(
        None, "in a pod: Service whose ready pods are the replicas, by its ports http and grpc"
    )
    namespace: str | None = option(None, "of that Service; default: the pod's own")
    routing: Literal["auto", "least-work", "prefix"] = option(
        "auto",
        "least-work: by load; prefix: to who has read the prompt's beginning, unless too busy; "
        "auto: prefix for replicas that tell the size of their KV cache",
        choices=("auto", "least-work", "prefix"),
    )
    api_keys_dir: str | None = option(
        None, "folder with one file per API key, as a Secret is mounted; default: no key is asked for"
    )
    tls_dir: str | None = option(
        None, "folder with tls.crt and tls.key, as a Secret is mounted; default: no TLS"
    )
    queue_max_requests: int = option(512, "requests that may wait for a replica; more get 429")
    queue_timeout: float = option(60.0, "seconds that a request may wait for a replica")
    connect_timeout: float = option(2.0, "seconds to connect to a replica")
    idle_timeout: float = option(300.0, "seconds without a byte from a replica before a request is given up")
    health_interval: float = option(0.5, "seconds between health checks of a replica")
    drain_timeout: float = option(120.0, "seconds that running requests get after SIGTERM", least=0)
    max_body_bytes: int = option(16 * 1024 * 1024, "largest HTTP request body", least=1)
    owner_token_file: str | None = option(None, "file with the token that gRPC Terminate must present")
    log_level: str = option("info", "verbosity", choices=("debug", "info", "warning", "error"))


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def to_argv(args: Any) -> list[str]:
    """Options that differ from their defaults, in declaration order; a required one always."""
    argv: list[str] = []
    for spec in fields(args):
        value = getattr(args, spec.name)
        if value == spec.default:
            continue
        if spec.metadata.get("positional"):
            argv.append(value)
        elif isinstance(value, bool):
            argv.append(flag(spec.name) if value else flag("no_" + spec.name))
        elif isinstance(value, tuple):
            argv += [f"{flag(spec.name)}={item}" for item in value]
        else:
            argv.append(f"{flag(spec.name)}={value}")
    return argv


def add_arguments(parser: argparse.ArgumentParser, cls: type) -> None:
    """Adds an option per field of `cls`."""
    hints = get_type_hints(cls)
    for spec in fields(cls):
        if spec.metadata.get("positional"):
            parser.add_argument(spec.name, help=spec.metadata["help"])
        else:
            parser.add_argument(flag(spec.name), **_keywords(spec, hints[spec.name]))


def parse(cls: type[T], argv: Sequence[str]) -> T:
    """The inverse of to_argv; exits with argparse's usual message on a bad command line."""
    parser = argparse.ArgumentParser(description=cls.__doc__, allow_abbrev=False)
    add_arguments(parser, cls)
    return from_namespace(cls, parser.parse_args(argv))


def from_namespace(cls: type[T], namespace: argparse.Namespace) -> T:
    values = {spec.name: getattr(namespace, spec.name) for spec in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _keywords(spec: Field[Any], hint: Any) -> dict[str, Any]:
    kind = _scalar(hint)
    required = spec.default is MISSING
    default = None if required else spec.default
    text = spec.metadata["help"].replace("%", "%%")
    if not required and default not in (None, ()) and "default" not in text:
        text += f" (default: {default})"
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, "default": default, "help": text}
    if get_origin(hint) is tuple:
        return {"action": "append", "default": [], "help": text}
    return {
        "type": str if get_origin(kind) is Literal else _bounded(kind, spec.metadata),
        "default": default,
        "required": required,
        "choices": spec.metadata.get("choices"),
        "help": text,
    }


def _bounded(kind: Any, metadata: Mapping[str, Any]) -> Any:
    """`kind`, or a conversion to it that also minds the option's bounds."""
    if "least" not in metadata:
        return kind
    least, most = metadata["least"], metadata.get("most", math.inf)

    def convert(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most:
            span = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not allowed; {span}")
        return value

    convert.__name__ = kind.__name__  # argparse says "invalid int value"
    return convert


def _scalar(hint: Any) -> Any:
    if isinstance(hint, UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint
