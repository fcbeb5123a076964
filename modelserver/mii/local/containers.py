"""The containers of mii.serve, from its configuration: the same programs that a cluster runs. Pure."""

from collections.abc import Mapping, Sequence

from mii.local import plan
from mii.local.plan import ChildSpec, Container, LocalPlan, Ports
from mii.mii_config import MIIConfig, ModelConfig
from mii_spec.launch import GatewayArgs, ServerArgs, to_argv


def server(config: MIIConfig) -> Container:
    args = ServerArgs(
        deployment_name=config.deployment_name,
        served_model_name=config.model_conf.model_name_or_path,
        **config.model_conf.engine_options,
    )
    return Container(command=["mii", "serve"], args=to_argv(args), env=_debug_env(config.model_conf))


def gateway(config: MIIConfig, *, token_file: str) -> Container:
    args = GatewayArgs(deployment_name=config.deployment_name, owner_token_file=token_file)
    return Container(command=["mii-gateway"], args=to_argv(args))


def http_host(config: MIIConfig) -> str:
    """Where the gateway listens: as told for the REST API, else for this machine alone."""
    if not config.enable_restful_api or config.restful_api_host == "localhost":
        return plan.HOST
    return config.restful_api_host


def local_plan(
    config: MIIConfig,
    *,
    token_file: str,
    free_ports: Sequence[int],
    gpu_env: Sequence[Mapping[str, str]],
    extra: Sequence[str],
) -> LocalPlan:
    """The deployment as processes.

    `free_ports` holds one for each replica's HTTP, then two for the gateway: for its HTTP, where the REST API
    is off, and for its probes. `gpu_env` has one entry for each replica.
    """
    spec = server(config)
    replicas = [
        plan.replica(spec, index=index, ports=_ports(config, index, port), env=env, extra=extra)
        for index, (port, env) in enumerate(zip(free_ports, gpu_env, strict=False))
    ]
    return LocalPlan(
        name=config.deployment_name,
        model=config.model_conf.model_name_or_path,
        served_name=config.model_conf.model_name_or_path,
        replicas=replicas,
        gateway=_gateway(config, token_file, free_ports[len(replicas) :], replicas),
        load_attempts=1,  # whoever waits in mii.serve wants the reason, not another try
    )


def _ports(config: MIIConfig, index: int, http: int) -> Ports:
    return Ports(http=http, grpc=config.port_number + 1 + index, probe=http)


def _gateway(
    config: MIIConfig, token_file: str, free_ports: Sequence[int], replicas: Sequence[ChildSpec]
) -> ChildSpec:
    spare, probe = free_ports
    http = config.restful_api_port if config.enable_restful_api else spare
    return plan.gateway(
        gateway(config, token_file=token_file),
        host=http_host(config),
        ports=Ports(http=http, grpc=config.port_number, probe=probe),
        replicas=replicas,
    )


def _debug_env(config: ModelConfig) -> dict[str, str]:
    return {"CUDA_LAUNCH_BLOCKING": "1"} if config.sync_debug else {}
