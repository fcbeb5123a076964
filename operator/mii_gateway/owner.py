"""Who may end the gateway: the owner, who can read the token's file."""

import asyncio
import hmac
from pathlib import Path

METADATA_KEY = "mii-owner-token"


class Owner:
    def __init__(self, token_file: str | None) -> None:
        self._file = Path(token_file) if token_file else None

    async def presents(self, token: str | bytes | None) -> bool:
        """Compares in constant time. Without a file, or with an empty one, nobody is the owner."""
        if self._file is None or not token:
            return False
        given = token.encode() if isinstance(token, str) else token
        expected = await asyncio.to_thread(self._read, self._file)
        return bool(expected) and hmac.compare_digest(given, expected)

    @staticmethod
    def _read(file: Path) -> bytes:
        """Afresh each time, so that a rotated secret counts."""
        try:
            return file.read_bytes().strip()
        except OSError:
            return b""
