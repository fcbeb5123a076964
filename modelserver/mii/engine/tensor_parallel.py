"""The collectives of one model's ranks, over torch.distributed: gloo on CPUs, NCCL between GPUs.

The process groups belong to this object alone: torch's default group is not touched, so that several engines,
and a user's own groups, can be in one process.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mii.models.shard import Shard

_LOOPBACK = "127.0.0.1"
_dist: Any = dist  # its annotations leave out most of what is used here
# A rank may load for as long as it takes. One that dies closes its connections, and one that hangs is the
# heartbeat's business.
_PATIENCE = timedelta(days=7)


class Communicator:
    """One rank's end; mii.layers.collectives.Collectives for its decoder.

    Gathered results are the same bits on every rank. Sums are too: gloo's ring and NCCL's algorithms add each
    element on one rank or in one order, and send the result round.
    """

    def __init__(
        self,
        shard: Shard,
        device: torch.device,
        rendezvous: Path,
        *,
        before_connecting: Callable[[], None] = lambda: None,
    ) -> None:
        """`rendezvous`: a path that only these ranks use, where no file is yet. `before_connecting` may wait
        for the other ranks in a way that notices when one of them is gone."""
        self.shard = shard
        self.device = device
        self._rendezvous = rendezvous
        self._before_connecting = before_connecting
        self._host: Any = None  # the group of the hosts
        self._group: Any = None  # the group of the devices; on CPUs the same
        self._sum = _ordered(_dist.AllreduceOptions())
        self._gather = _ordered(_dist.distributed_c10d.AllgatherOptions())

    def connect(self) -> None:
        """Returns once every rank has come."""
        self._before_connecting()
        rank, size = self.shard.rank, self.shard.size
        store = _dist.FileStore(str(self._rendezvous), size)
        self._group = self._host = _gloo(_dist.PrefixStore("host", store), rank, size)
        if self.device.type == "cuda":
            nccl = _dist.PrefixStore("device", store)
            self._group = _dist.ProcessGroupNCCL(nccl, rank, size, _dist.ProcessGroupNCCL.Options())

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, in place. On a GPU its stream waits, not the host."""
        self._group.allreduce([x], self._sum).wait()
        return x

    def all_gather(self, x: Tensor, width: int) -> Tensor:
        """x [n, m] of every rank side by side, [n, width] of them."""
        rows, columns = x.shape
        if not rows:
            return x.new_empty(0, width)
        gathered = x.new_empty(self.shard.size * rows, columns)
        self._group._allgather_base(gathered, x.contiguous(), self._gather).wait()
        parts = gathered.view(self.shard.size, rows, columns).unbind()
        return torch.cat([*parts[: width // columns], *_rest(parts, width)], dim=1)

    def lowest(self, value: int) -> int:
        """The least of all ranks' values, which the host waits for."""
        least, options = torch.tensor([value]), _dist.AllreduceOptions()
        options.reduceOp = _dist.ReduceOp.MIN
        self._host.allreduce([least], options).wait()
        return int(least)

    def abort(self) -> None:
        """Ends what is under way between GPUs, also while another thread waits for it."""
        if self._group is not self._host:
            self._group.abort()


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
