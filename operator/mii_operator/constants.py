"""Names, ports and paths on which the manifests, the operator and its users agree."""

API_VERSION = "mii.dev/v1alpha1"
KIND = "MIIDeployment"
MANAGED_BY = "mii-operator"

SERVER = "server"
GATEWAY = "gateway"
FETCH = "fetch"

HTTP_PORT = 8000
GRPC_PORT = 50050
PROBE_PORT = 8081  # the gateway's own health and metrics
SERVICE_HTTP_PORT = 80

USER_ID = 10001  # of the images' user
PROPAGATION_SECONDS = 5  # until every proxy and gateway has seen that a pod is going
EXIT_SECONDS = 5  # from the end of draining to the end of the process

CACHE_PATH = "/cache"
MODEL_PATH = "/model"
API_KEYS_PATH = "/etc/mii/api-keys"
TLS_PATH = "/etc/mii/tls"

PRODUCT_LABEL = "nvidia.com/gpu.product"  # as GPU feature discovery sets it on nodes
MEMORY_LABEL = "nvidia.com/gpu.memory"  # of one GPU, in MiB
