"""The buffers of a model's ranks, as one rank holds them: its own, and the others' mapped."""

import ctypes

from mii_kernels._lib import KernelError, Library

HANDLE_BYTES = 64


class PeerMemory:
    """All ranks are processes of one host, and device i of each is the same one: that of rank i."""

    def __init__(self, library: Library, rank: int, ranks: int) -> None:
        """Allocates this rank's buffer. Raises KernelError."""
        self._library = library
        self._rank = rank
        self._others: list[int] = []
        size, own, handle = ctypes.c_int64(), ctypes.c_void_p(), ctypes.create_string_buffer(HANDLE_BYTES)
        library.call("mii_peer_buffer_bytes", ctypes.byref(size), ranks)
        library.call("mii_peer_allocate", ctypes.byref(own), handle, size.value, rank)
        self._own: int | None = own.value
        self.handle = handle.raw  # what the other ranks open it with

    def open(self, handles: list[bytes]) -> list[int]:
        """The ranks' buffers by rank, from their handles. Raises KernelError that names the rank."""
        assert self._own is not None, "it is open"
        buffers = []
        for rank, handle in enumerate(handles):
            if rank == self._rank:
                buffers.append(self._own)
            else:
                self._others.append(self._open(rank, handle))
                buffers.append(self._others[-1])
        return buffers

    def close(self) -> None:
        """When nothing on the device uses the buffers any more. Another rank may still have ours mapped."""
        for buffer in self._others:
            self._library.call("mii_peer_close", buffer)
        if self._own is not None:
            self._library.call("mii_peer_free", self._own)
        self._others, self._own = [], None

    def _open(self, rank: int, handle: bytes) -> int:
        buffer = ctypes.c_void_p()
        try:
            self._library.call("mii_peer_open", ctypes.byref(buffer), handle, self._rank, rank)
        except KernelError as error:
            raise KernelError(f"device {self._rank} cannot map memory of device {rank}: {error}") from error
        assert buffer.value is not None
        return buffer.value
