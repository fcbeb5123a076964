"""From running generations to OpenAI's server-sent events."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from mii.core import Output
from mii.server.sse import DONE
from mii.server.streams import OutputStream, merge


async def events(
    streams: Sequence[OutputStream],
    encode: Callable[[int, Output], bytes],
    conclude: Callable[[Sequence[Output]], bytes],
) -> AsyncGenerator[bytes, None]:
    """Encoded chunks of all generations as they come, then `conclude` of their last chunks, then [DONE].

    A chunk that encodes to nothing is not sent; chunks that are there at the same time go out together.
    """
    last: dict[int, Output] = {}
    async with aclosing(merge(streams)) as batches:
        async for batch in batches:
            last.update(batch)
            if data := b"".join([encode(index, output) for index, output in batch]):
                yield data
    yield conclude([last[index] for index in sorted(last)]) + DONE
