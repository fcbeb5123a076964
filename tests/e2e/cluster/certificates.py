"""A certificate authority of the tests' own. Needs openssl."""

import subprocess
from pathlib import Path

_NEW = ("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


class Authority:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        use = ("-addext", "keyUsage=critical,keyCertSign")
        where = ("-subj", "/CN=tests", "-keyout", self._key, "-out", self.certificate)
        subprocess.run([*_NEW, *use, *where], check=True, capture_output=True)

    def issue(self, name: str) -> dict[str, str]:
        """A new certificate for that DNS name and its key, as a Secret of type kubernetes.io/tls has them."""
        files = {file: self._folder / file for file in ("tls.crt", "tls.key")}
        signed = ("-CA", self.certificate, "-CAkey", self._key)
        names = (
            "-addext",
            f"subjectAltName=DNS:{name}",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        )
        where = ("-subj", "/CN=gateway", "-keyout", files["tls.key"], "-out", files["tls.crt"])
        subprocess.run([*_NEW, *signed, *names, *where], check=True, capture_output=True)
        return {file: path.read_text() for file, path in files.items()}
