"""The command lines of a deployment's two containers, the same in a pod and as a process. Pure."""

from dataclasses import replace
from typing import Any

from mii_operator import constants
from mii_spec import engine_args
from mii_spec.launch import GatewayArgs, ServerArgs, to_argv
from mii_spec.sizing import Choice
from mii_spec.source import FileModel, HubModel, UrlModel, VolumeModel
from mii_spec.spec import MIIDeployment, Spec


def server_container(deployment: MIIDeployment, choice: Choice) -> dict[str, Any]:
    """The container `server`: name, command, args and an empty env."""
    return _container(constants.SERVER, ["mii", "serve"], server_args(deployment, choice))


def gateway_container(deployment: MIIDeployment, *, cluster: bool) -> dict[str, Any]:
    """The container `gateway`. Only in a cluster does it know its replicas, by their Service's name."""
    return _container(constants.GATEWAY, ["mii-gateway"], gateway_args(deployment, cluster=cluster))


def server_args(deployment: MIIDeployment, choice: Choice) -> ServerArgs:
    """`spec.engine.args` with everything on top that other fields say."""
    spec = deployment.spec
    model = location(spec)
    return replace(
        engine_args.parse(spec.engine.args),
        model=model,
        revision=spec.revision,
        served_model_name=None if spec.served_model_name == model else spec.served_model_name,
        deployment_name=deployment.metadata.name,
        host="0.0.0.0",
        port=constants.HTTP_PORT,
        grpc_port=constants.GRPC_PORT,
        device="cuda" if choice.gpus else "cpu",
        dtype=spec.engine.dtype,
        max_model_len=None if spec.engine.max_model_len == "auto" else spec.engine.max_model_len,
        token_budget=None if spec.engine.token_budget == "auto" else spec.engine.token_budget,
        kv_memory_fraction=spec.engine.kv_memory_fraction,
        tensor_parallel=choice.tensor_parallel,
        quantization=spec.engine.quantization,
        drain_timeout=spec.rollout.drain_timeout.total_seconds(),
    )


def gateway_args(deployment: MIIDeployment, *, cluster: bool) -> GatewayArgs:
    """The gateway's options; its Secrets are folders in a cluster."""
    gateway = deployment.spec.gateway
    return GatewayArgs(
        deployment_name=deployment.metadata.name,
        host="0.0.0.0",
        port=constants.HTTP_PORT,
        grpc_port=constants.GRPC_PORT,
        probe_port=constants.PROBE_PORT,
        endpoints_service=endpoints_service(deployment) if cluster else None,
        api_keys_dir=constants.API_KEYS_PATH if cluster and gateway.api_keys_secret_ref else None,
        tls_dir=constants.TLS_PATH if cluster and gateway.tls_secret_ref else None,
        queue_max_requests=gateway.queue.max_requests,
        queue_timeout=gateway.queue.timeout.total_seconds(),
        drain_timeout=deployment.spec.rollout.drain_timeout.total_seconds(),
    )


def endpoints_service(deployment: MIIDeployment) -> str:
    """The headless Service whose ready endpoints are the replicas."""
    return f"{deployment.metadata.name}-{constants.SERVER}"


def location(spec: Spec) -> str:
    """The model as `mii serve` takes it: an id, a path in the container, or a URL."""
    match spec.source:
        case HubModel(id):
            return id
        case FileModel(path):
            return path
        case VolumeModel(_, path):
            return f"{constants.MODEL_PATH}/{path}".rstrip("/")
        case UrlModel(url):
            return url


def _container(name: str, command: list[str], args: ServerArgs | GatewayArgs) -> dict[str, Any]:
    return {"name": name, "command": command, "args": to_argv(args), "env": []}
