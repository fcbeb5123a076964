"""The command line of `mii-operator`."""

from dataclasses import dataclass

from mii_operator.facts import Images
from mii_operator.model_source import DEFAULT_ENDPOINT
from mii_spec.launch import option


@dataclass(frozen=True, kw_only=True)
class OperatorArgs:
    """`mii-operator`: turns MIIDeployments into servers and gateways."""

    server_image: str = option("mii-server:dev", "image of the model servers")
    gateway_image: str = option("mii-operator:dev", "image of the gateways")
    image_pull_policy: str = option(
        "IfNotPresent", "of both images", choices=("Always", "IfNotPresent", "Never")
    )
    image_pull_secret: tuple[str, ...] = option((), "Secret to pull with; give it once per Secret")
    namespace: tuple[str, ...] = option((), "serve this namespace; give it once per namespace; default: all")
    lease_namespace: str = option("", "of the Lease by which operators elect a leader; default: the pod's")
    lease_name: str = option("mii-operator", "name of that Lease")
    hub_endpoint: str = option(DEFAULT_ENDPOINT, "Hugging Face hub that models are looked up on")
    metrics_port: int = option(
        8080, "port of /healthz and /metrics; 0 takes a free one of this machine alone"
    )
    log_level: str = option("info", "verbosity", choices=("debug", "info", "warning", "error"))

    @property
    def images(self) -> Images:
        return Images(self.server_image, self.gateway_image, self.image_pull_policy, self.image_pull_secret)
