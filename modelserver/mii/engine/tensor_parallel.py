"""The collectives of one model's ranks: gloo on CPUs; between GPUs most sums through each other's memory
(peers.py), the rest by NCCL.

The process groups belong to this object alone: torch's default group is not touched, so that several engines,
and a user's own groups, can be in one process.
"""

import contextlib
import ctypes
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mii.engine.peers import RECORD_BYTES, Peers, UnreachableError
from mii.models.shard import Shard
from mii_kernels import ops
from mii_kernels.cuda.all_reduce import PeerReducer

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_dist: Any = dist  # its annotations leave out most of what is used here
# A rank may load for as long as it takes. One that dies closes its connections, and one that hangs is the
# heartbeat's business.
_PATIENCE = timedelta(days=7)

_ABORT_SECONDS = 5.0
_WARM_UP = (1, 1 << 16, 1 << 22)  # floats; NCCL connects differently for few and for many bytes


class Communicator:
    """One rank's end; mii.layers.collectives.Collectives for its decoder.

    Gathered results are the same bits on every rank. Sums are too: gloo's ring and NCCL's algorithms add each
    element on one rank or in one order, and send the result round; our kernels add in the order of the ranks.

    On GPUs everything is queued on the current stream, and the host waits for nothing: it can be captured in
    a CUDA graph.
    """

    def __init__(
        self,
        shard: Shard,
        device: torch.device,
        rendezvous: Path,
        *,
        before_connecting: Callable[[], None] = lambda: None,
        peer_memory: bool = True,
    ) -> None:
        """`rendezvous`: a path that only these ranks use, where no file is yet. `before_connecting` may wait
        for the other ranks in a way that notices when one of them is gone. `peer_memory`: sum through it
        where the GPUs can and our kernels are in use."""
        self.shard = shard
        self.device = device
        self._rendezvous = rendezvous
        self._before_connecting = before_connecting
        self._peer_memory = peer_memory
        self._peers: Peers | None = None
        self._host: Any = None  # the group of the hosts
        self._group: Any = None  # the group of the devices; on CPUs the same
        self._sum = _ordered(_dist.AllreduceOptions())
        self._gather = _ordered(_dist.distributed_c10d.AllgatherOptions())

    def connect(self) -> None:
        """Returns once every rank has come, and what the collectives need of the devices' memory is taken."""
        self._before_connecting()
        rank, size = self.shard.rank, self.shard.size
        store = _dist.FileStore(str(self._rendezvous), size)
        self._group = self._host = _gloo(_dist.PrefixStore("host", store), rank, size)
        if self.device.type == "cuda":
            nccl = _dist.PrefixStore("device", store)
            self._group = _dist.ProcessGroupNCCL(nccl, rank, size, _dist.ProcessGroupNCCL.Options())
            self._warm_up()
        self._peers = self._open_peers()

    @property
    def reducer(self) -> PeerReducer | None:
        """What sums through the ranks' memory, once connected, if anything does."""
        return None if self._peers is None else self._peers.reducer

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, in place."""
        if self._peers is not None and (summed := self._peers.reducer.all_reduce(x)) is not None:
            return summed
        _wait(self._group.allreduce([x], self._sum))
        return x

    def all_reduce_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, rms: bool
    ) -> tuple[Tensor, Tensor] | None:
        """See Collectives."""
        if self._peers is None:
            return None
        return self._peers.reducer.all_reduce_norm(x, residual, weight, bias, eps, rms=rms)

    def all_gather(self, x: Tensor, width: int) -> Tensor:
        """x [n, m] of every rank side by side, [n, width] of them."""
        rows, columns = x.shape
        if not rows:
            return x.new_empty(0, width)
        gathered = x.new_empty(self.shard.size * rows, columns)
        _wait(self._group._allgather_base(gathered, x.contiguous(), self._gather))
        parts = gathered.view(self.shard.size, rows, columns).unbind()
        return torch.cat([*parts[: width // columns], *_rest(parts, width)], dim=1)

    def lowest(self, value: int) -> int:
        """The least of all ranks' values, which the host waits for."""
        least, options = torch.tensor([value]), _dist.AllreduceOptions()
        options.reduceOp = _dist.ReduceOp.MIN
        self._host.allreduce([least], options).wait()
        return int(least)

    def abort(self) -> None:
        """Ends what is under way between GPUs, also while another thread waits for it, and ends its use."""
        if self._peers is not None:
            self._peers.abandon()
        group, self._group = self._group, self._host
        if group is not self._host:
            _abort(group)

    def close(self) -> None:
        """Gives the devices' memory back. No graph that was captured with these ranks is left, and none of
        them is waiting for this one."""
        self.abort()
        if self._peers is not None:
            with contextlib.suppress(RuntimeError):  # the device may have failed, by the loss of another
                torch.cuda.synchronize(self.device)
                self._peers.close()
            self._peers = None

    def _warm_up(self) -> None:
        """NCCL connects devices when it first needs to: the capture of a CUDA graph is too late for that."""
        for count in _WARM_UP:
            x = torch.zeros(1, count, device=self.device)
            _wait(self._group.allreduce([x], self._sum))
            self.all_gather(x, count)

    def _open_peers(self) -> Peers | None:
        library = ops.library(self.device)
        if library is None or not self._peer_memory:
            return None
        try:
            return Peers(library, self.shard, self.device, self._exchange)
        except UnreachableError as error:
            if self.shard.rank == 0:
                log.warning("sums over the ranks are left to NCCL: %s", error)
            return None

    def _exchange(self, record: bytes) -> list[bytes]:
        """The records of all hosts, by rank."""
        records = torch.zeros(self.shard.size * RECORD_BYTES, dtype=torch.uint8)
        own = torch.frombuffer(bytearray(record), dtype=torch.uint8)
        self._host._allgather_base(records, own, self._gather).wait()
        return [bytes(it.tolist()) for it in records.split(RECORD_BYTES)]


def _abort(group: Any) -> None:
    """NCCL can wait for ranks that are gone, for ever: it has so many seconds, and is then left behind."""
    ending = threading.Thread(target=group.abort, daemon=True)
    ending.start()
    ending.join(_ABORT_SECONDS)
    if ending.is_alive():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))  # its end, too, would wait


def _wait(work: Any) -> None:
    """For gloo, in the host. NCCL's work is in the current stream, and torch returns nothing for it."""
    if work is not None:
        work.wait()


def _ordered(options: Any) -> Any:
    """On a GPU: run in the stream of what comes before and after, not in one beside it."""
    options.asyncOp = False
    return options


def _rest(parts: tuple[Tensor, ...], width: int) -> list[Tensor]:
    """Of the last rank that has any, the columns before the padding."""
    whole, columns = divmod(width, parts[0].shape[1])
    return [parts[whole][:, :columns]] if columns else []


def _gloo(store: Any, rank: int, size: int) -> Any:
    """All ranks are processes of this machine, so nothing listens on its other addresses."""
    options = _dist.ProcessGroupGloo._Options()
    options._devices = [_dist.ProcessGroupGloo.create_device(hostname=_LOOPBACK)]
    options._timeout = _PATIENCE
    return _dist.ProcessGroupGloo(store, rank, size, options)
