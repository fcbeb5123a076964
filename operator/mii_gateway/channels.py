"""gRPC connections to replicas: one HTTP/2 channel each, which carries any number of calls."""

import asyncio

import grpc
import grpc.aio

from mii_gateway.replicas import Replica, ReplicaTable

MESSAGE_BYTES = 128 * 1024 * 1024
CLOSE_GRACE = 3600.0  # seconds that calls on a channel that is no longer used have to end by themselves
MESSAGE_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
)


class ChannelPool:
    """A channel per replica's life: a new one after it was away, which has no back-off to sit out."""

    def __init__(self, table: ReplicaTable, connect_timeout: float) -> None:
        self._table = table
        self._options = (
            *MESSAGE_OPTIONS,
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.min_reconnect_backoff_ms", int(connect_timeout * 1000)),  # how long connecting may take
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        )
        self._channels: dict[Replica, tuple[int, grpc.aio.Channel]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        table.subscribe(self._retire_strangers)

    def channel(self, replica: Replica) -> grpc.aio.Channel:
        incarnation, channel = self._channels.get(replica, (None, None))
        if channel is None or incarnation != replica.incarnation:
            self._retire(replica)
            channel = grpc.aio.insecure_channel(replica.address.grpc_target, options=self._options)
            self._channels[replica] = replica.incarnation, channel
        return channel

    async def close(self) -> None:
        """Ends every call."""
        for task in self._closing:
            task.cancel()
        for _, channel in self._channels.values():
            await channel.close(None)

    def _retire_strangers(self) -> None:
        for replica in self._channels.keys() - set(self._table.all()):
            self._retire(replica)

    def _retire(self, replica: Replica) -> None:
        if replica in self._channels:
            _, channel = self._channels.pop(replica)
            task = asyncio.create_task(channel.close(CLOSE_GRACE))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
