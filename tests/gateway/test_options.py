"""Protection that was asked for and cannot be given ends the gateway: it never serves with less."""

import pytest

from mii_gateway.app import check
from mii_spec.launch import GatewayArgs


@pytest.mark.parametrize("option", ["api_keys_dir", "tls_dir"])
def test_a_folder_that_is_not_there_is_refused(option):
    args = GatewayArgs(deployment_name="m", replica=("127.0.0.1:1/2",), **{option: "/etc/mii"})
    with pytest.raises(ValueError, match=f"^--{option.replace('_', '-')}: /etc/mii is not a folder"):
        check(args)


@pytest.mark.parametrize("files", [{}, {"tls.crt": "x", "tls.key": "y"}])
def test_an_unusable_certificate_is_refused(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    args = GatewayArgs(deployment_name="m", replica=("127.0.0.1:1/2",), tls_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"^--tls-dir: tls\.crt and tls\.key there are unusable"):
        check(args)
