"""An option that the gateway does not honour ends it: it never serves with less protection than asked for."""

import pytest

from mii_gateway.app import check
from mii_spec.launch import GatewayArgs


@pytest.mark.parametrize("option", ["api_keys_dir", "tls_dir"])
def test_protection_that_is_not_there_is_refused(option):
    args = GatewayArgs(deployment_name="m", replica=("127.0.0.1:1/2",), **{option: "/etc/mii"})
    with pytest.raises(ValueError, match=f"^--{option.replace('_', '-')}: this gateway"):
        check(args)
