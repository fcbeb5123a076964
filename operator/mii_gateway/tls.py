"""The gateway's certificate, for HTTP and gRPC; a new one counts for new connections, old ones go on."""

import asyncio
import logging
import ssl
from pathlib import Path

import grpc

from mii_gateway import mounted
from mii_gateway.mounted import Files

CERTIFICATE, KEY = "tls.crt", "tls.key"  # as in Secrets of type kubernetes.io/tls

log = logging.getLogger(__name__)


class Tls:
    """One certificate in two places. Raises OSError (ssl.SSLError is one) or KeyError if it is unusable."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.set_alpn_protocols(["http/1.1"])
        self._files = mounted.read(folder)
        self._load(self.context)
        self._grpc = self._configuration(self._files)
        self.credentials = grpc.dynamic_ssl_server_credentials(self._grpc, lambda: self._grpc)

    async def follow(self) -> None:
        """Takes a renewed certificate over; runs until cancelled."""
        async for files in mounted.changes(self._folder, self._files):
            try:
                await asyncio.to_thread(self._load, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
                self._load(self.context)
                self._grpc = self._configuration(files)
                log.info("TLS certificate renewed")
            except (OSError, KeyError) as error:
                log.error("the new TLS certificate is unusable, the old one stays: %r", error)

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._folder / CERTIFICATE, self._folder / KEY)

    @staticmethod
    def _configuration(files: Files) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(files[KEY], files[CERTIFICATE])])
