"""Rank 0 of several: an Engine whose every step the other ranks repeat."""

import weakref
from collections.abc import Callable

from mii.config import EngineConfig
from mii.core import AbortRequest, EngineOutput, EngineRequest
from mii.engine.device import choose_device
from mii.engine.engine import Engine
from mii.engine.follower import RENDEZVOUS
from mii.engine.followers import Followers
from mii.engine.loading import find_model
from mii.engine.messages import ToEngine, Turn
from mii.engine.tensor_parallel import Communicator
from mii.errors import EngineDead, ModelLoadError
from mii.models.shard import Shard


def open_engine(config: EngineConfig, *, on_lost: Callable[[str], None] | None = None) -> Engine:
    """The engine of a model, with its other ranks in processes of their own if it has any.

    `on_lost`: called by another thread, with the reason, when such a process is gone and this one may be
    waiting for it for ever; by default the wait is broken off, and `step` raises EngineDead. Raises
    ModelLoadError.
    """
    return Engine(config) if config.tensor_parallel == 1 else LeadingEngine(config, on_lost=on_lost)


class LeadingEngine(Engine):
    """Adds and aborts are passed on with the next step, so that all ranks know the same at every step."""

    def __init__(self, config: EngineConfig, *, on_lost: Callable[[str], None] | None = None) -> None:
        """Starts the other ranks and loads its own part meanwhile. Raises ModelLoadError."""
        shard = Shard(0, config.tensor_parallel)
        device = choose_device(config.device, shard)
        found = find_model(config)
        self._news: list[ToEngine] = []
        self._together = False  # while the engine is made, all ranks do the same unasked
        followers = Followers(shard.size)
        ranks = Communicator(
            shard,
            device,
            followers.directory / RENDEZVOUS,
            before_connecting=followers.wait_loaded,
            peer_memory=config.peer_memory,
        )
        self.followers = followers
        self.ranks = ranks
        self._end_followers = weakref.finalize(self, followers.close)
        try:
            followers.start(config, found.path, on_lost=on_lost or (lambda _: ranks.abort()))
            super().__init__(config, found=found, ranks=ranks)
        except BaseException as error:
            reason = followers.explained(error, ModelLoadError)
            self._end_followers()
            raise reason from None
        self._together = True

    def add(self, request: EngineRequest) -> None:
        super().add(request)
        self._note_news(request)

    def abort(self, request_id: str) -> None:
        super().abort(request_id)
        self._note_news(AbortRequest(request_id))

    def step(self) -> list[EngineOutput]:
        """Raises EngineDead, naming the rank, if one is lost."""
        if not self._together:
            return super().step()
        news, self._news = self._news, []
        try:
            self.followers.send(Turn(news, self.scheduler.blocks.num_free))
            outputs = super().step()
            self.followers.refuse_lost()  # the wait for it was broken off: these are no tokens of the model
            return outputs
        except BaseException as error:  # a Ctrl-C, too, leaves the ranks at different places
            reason = self.followers.explained(error, EngineDead)
            self.followers.give_up(f"rank 0 broke off a step: {type(error).__name__}: {error}")
            if reason is error:
                raise
            raise reason from error

    def close(self) -> None:
        self.runner.forget_graphs()
        self.ranks.close()  # while the others are there: NCCL takes leave of them
        self._end_followers()

    def _note_news(self, message: ToEngine) -> None:
        if self._together:
            self._news.append(message)
