"""Names that Kubernetes accepts. Each check returns its argument or raises ValueError with the rule."""

import re

SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
SECRET_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"
QUALIFIED_NAME_PATTERN = (
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    r"/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
)
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
DEPLOYMENT_NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"

# Services are called NAME and NAME-server, and a Service may have 63 characters; some are kept in reserve.
DEPLOYMENT_NAME_LENGTH = 50


def check_subdomain(name: str) -> str:
    """A DNS-1123 subdomain: the name of a Secret, claim or storage class."""
    if len(name) > 253 or not re.fullmatch(SUBDOMAIN_PATTERN, name):
        raise ValueError(
            "must be a DNS-1123 name (lower case letters, digits, '-' and '.', "
            f"starting and ending with a letter or digit), got {name!r}"
        )
    return name


def check_deployment_name(name: str) -> str:
    """A DNS-1035 label (Services are named after it), short enough for the names of its children."""
    if len(name) > DEPLOYMENT_NAME_LENGTH or not re.fullmatch(DEPLOYMENT_NAME_PATTERN, name):
        raise ValueError(
            f"must be at most {DEPLOYMENT_NAME_LENGTH} lower case letters, digits and '-', "
            f"starting with a letter and ending with a letter or digit, got {name!r}"
        )
    return name


def check_secret_key(key: str) -> str:
    if not re.fullmatch(SECRET_KEY_PATTERN, key):
        raise ValueError(f"must be a Secret's key (letters, digits, '-', '_' and '.'), got {key!r}")
    return key


def check_resource_name(name: str) -> str:
    if not re.fullmatch(QUALIFIED_NAME_PATTERN, name):
        raise ValueError(f"must be an extended resource such as nvidia.com/gpu, got {name!r}")
    return name


def check_label_value(value: str) -> str:
    if len(value) > 63 or not re.fullmatch(LABEL_VALUE_PATTERN, value):
        raise ValueError(
            "must be a label value such as NVIDIA-H100-80GB-HBM3 (letters, digits, '-', '_', '.'), "
            f"got {value!r}"
        )
    return value
