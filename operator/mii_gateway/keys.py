"""Who may ask: API keys, one file each in a folder; the file's name is the tenant's."""

import logging
import secrets
from hashlib import blake2b
from pathlib import Path

from mii_gateway import mounted
from mii_gateway.errors import unauthenticated
from mii_gateway.mounted import Files

log = logging.getLogger(__name__)


class KeyRing:
    """Knows keys by their digests under a secret of this process.

    A look-up by such a digest takes a time that tells nothing about the keys: who guesses cannot know how
    near the guess came.
    """

    def __init__(self, folder: Path | None) -> None:
        """Without a folder nobody needs a key. Raises OSError if it cannot be read."""
        self._folder = folder
        self._secret = secrets.token_bytes(64)
        self._tenants: dict[bytes, str] = {}
        self._files: Files = {}
        if folder is not None:
            self._learn(mounted.read(folder))

    @property
    def required(self) -> bool:
        return self._folder is not None

    def authenticate(self, authorization: str | bytes | None) -> str:
        """The tenant who sends this header; empty if keys are not required. Raises Refusal, 401."""
        if not self.required:
            return ""
        given = (
            authorization.encode(errors="surrogateescape")
            if isinstance(authorization, str)
            else authorization
        )
        scheme, _, key = (given or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise unauthenticated("an API key is needed, as Authorization: Bearer KEY")
        tenant = self._tenants.get(self._digest(key.strip()))
        if tenant is None:
            raise unauthenticated("this API key is not known")
        return tenant

    async def follow(self) -> None:
        """Learns new keys and forgets old ones; runs until cancelled."""
        if self._folder is not None:
            async for files in mounted.changes(self._folder, self._files):
                self._learn(files)

    def _learn(self, files: Files) -> None:
        keys = {name: content.strip() for name, content in files.items()}
        if empty := [name for name, key in keys.items() if not key]:
            log.warning("empty API keys are nobody's: %s", ", ".join(empty))
        self._tenants = {self._digest(key): name for name, key in keys.items() if key}
        self._files = files
        log.info("API keys read", extra={"fields": {"names": sorted(self._tenants.values())}})

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, key=self._secret, digest_size=32).digest()
