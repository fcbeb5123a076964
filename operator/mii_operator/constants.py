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
# From a pod's deletion until nobody sends it new requests: proxies and gateways have seen it, and a gateway's
# gRPC clients, who keep a connection for 5 s (its CONNECTION_AGE), have left.
LEAVING_SECONDS = {SERVER: 5, GATEWAY: 10, FETCH: 0}
EXIT_SECONDS = 5  # from the end of draining to the end of the process

CACHE_PATH = "/cache"
MODEL_PATH = "/model"
API_KEYS_PATH = "/etc/mii/api-keys"
TLS_PATH = "/etc/mii/tls"

PRODUCT_LABEL = "nvidia.com/gpu.product"  # as GPU feature discovery sets it on nodes
MEMORY_LABEL = "nvidia.com/gpu.memory"  # of one GPU, in MiB
