"""Generation in this process: no server, no port. (`mii.pipeline` and `mii.async_pipeline` make these.)

prompts ─tokenise─> EngineRequest ─Engine.step, all in one batch─> token ids ─Detokenizer─> Response
"""

import gc
import itertools
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mii.core import EngineOutput, EngineRequest
from mii.engine.detokenizer import Detokenizer
from mii.engine.request import make_request
from mii.errors import InvalidRequest, MIIError
from mii.options import MIIOptions, ModelLimits, mii_options
from mii.response import Response, finish_reason

if TYPE_CHECKING:
    from mii.core import EngineInfo
    from mii.engine.engine import Engine
    from mii.models.tokenizer import Tokenizer


def check_prompts(prompts: str | Sequence[str]) -> list[str]:
    """As a list. Raises InvalidRequest unless there is at least one, and all are text and not empty."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest("prompts must be one or more strings that are not empty", param="prompts")
    return texts


def check_options(options: dict[str, Any]) -> MIIOptions:
    """Validated. Raises UnknownArgument or InvalidRequest naming the option."""
    checked = mii_options(options)
    if checked.stream:
        raise InvalidRequest(
            "a call returns whole responses; to stream, iterate over stream(prompt) of mii.async_pipeline(…)",
            param="stream",
        )
    return checked


def limits(info: "EngineInfo", tokenizer: "Tokenizer") -> ModelLimits:
    return ModelLimits.of(info, tokenizer.eos_token_ids)


class MIIPipeline:
    """A loaded model. Call it with prompts; `destroy` (or leaving a `with` block) frees the device."""

    def __init__(self, engine: "Engine", tokenizer: "Tokenizer") -> None:
        self._engine: Engine | None = engine
        self._tokenizer = tokenizer
        self._ids = itertools.count()

    def __call__(self, prompts: str | Sequence[str], **options: Any) -> list[Response]:
        """One Response per prompt, in order; `options` are MII's generate options.

        Raises UnknownArgument or InvalidRequest naming the option, before anything is generated.
        """
        engine = self._alive()
        checked, texts = check_options(options), check_prompts(prompts)
        generations = [self._generation(text, checked, index) for index, text in enumerate(texts)]
        _run(engine, {generation.request.request_id: generation for generation in generations})
        return [generation.response(full_text=checked.return_full_text) for generation in generations]

    def destroy(self) -> None:
        """Frees the model and its KV cache; calls raise RuntimeError from now on."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None  # its tensors go with it
        gc.collect()
        if cuda := sys.modules.get("torch.cuda"):
            cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def _alive(self) -> "Engine":
        if self._engine is None:
            raise RuntimeError("this pipeline is destroyed: make a new one with mii.pipeline(…)")
        return self._engine

    def _generation(self, prompt: str, options: MIIOptions, index: int) -> "_Generation":
        info, tokenizer = self._alive().info, self._tokenizer
        token_ids = tokenizer.encode(prompt)
        params = options.to_params(len(token_ids), limits(info, tokenizer), index=index)
        request = make_request(f"pipeline-{next(self._ids)}", token_ids, params, info, tokenizer)
        return _Generation(prompt, request, Detokenizer.of(request, params, tokenizer))


class _Generation:
    """One prompt on its way through the engine."""

    def __init__(self, prompt: str, request: EngineRequest, detokenizer: Detokenizer) -> None:
        self.request = request
        self.stopped = False  # by a stop string, which only the detokeniser can see
        self._prompt = prompt
        self._detokenizer = detokenizer
        self._text: list[str] = []
        self._generated = 0
        self._reason: str | None = None

    def add(self, output: EngineOutput) -> bool:
        """Takes in one step's tokens; whether the generation is over."""
        if output.error is not None:
            raise MIIError(f"the engine gave up on prompt {self._prompt[:40]!r}: {output.error}")
        self._generated += len(output.token_ids)
        piece = self._detokenizer.push(output.token_ids)
        self._text.append(piece.text)
        self.stopped = piece.stop is not None and output.finish_reason is None
        self._reason = "stop" if piece.stop is not None else output.finish_reason
        if self._reason is None:
            return False
        if piece.stop is None:
            self._text.append(self._detokenizer.flush())
        return True

    def response(self, *, full_text: bool) -> Response:
        text = "".join([self._prompt, *self._text] if full_text else self._text)
        prompt_length = len(self.request.prompt_token_ids)
        return Response(text, prompt_length, self._generated, finish_reason(self._reason))


def _run(engine: "Engine", pending: dict[str, _Generation]) -> None:
    """Steps the engine until all are finished; whatever happens, none of them stays inside."""
    try:
        for generation in pending.values():
            engine.add(generation.request)
        while pending:
            assert engine.has_work(), f"the engine lost {sorted(pending)}"
            for output in engine.step():
                known = pending.get(output.request_id)  # None: the rest of an abandoned call
                if known and known.add(output):
                    del pending[output.request_id]
                    if known.stopped:
                        engine.abort(output.request_id)
    finally:
        for request_id in pending:
            engine.abort(request_id)
