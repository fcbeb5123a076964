"""A model's facts from the hub: its config.json and the size of its weights, asked for once an hour."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp

from mii_spec.model_facts import ModelFacts, from_config
from mii_spec.reasons import Reason
from mii_spec.source import HubModel
from mii_spec.spec import Spec

DEFAULT_ENDPOINT = "https://huggingface.co"
TIMEOUT = aiohttp.ClientTimeout(total=20, connect=5)
FRESH, RETRY = 3600.0, 60.0  # seconds that an answer, and a refusal, is good for
_LARGEST = 64 * 2**20  # bytes of an index


@dataclass(frozen=True)
class ModelRefused(Exception):  # noqa: N818
    """The hub's refusal; `reason` is the condition's."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Found:
    """`facts` None: there are none to be had. `reachable` False: there may be, when the hub answers again."""

    facts: ModelFacts | None = None
    reachable: bool = True
    problem: str = ""


Answer = Found | ModelRefused
_Query = tuple[str, str, str]  # id, revision, token


class ModelSource:
    """Answers are kept by model, revision and token, so that a new token is tried at once."""

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._answers: dict[_Query, tuple[float, Answer]] = {}
        self._locks: dict[_Query, asyncio.Lock] = {}

    async def find(self, spec: Spec, token: str) -> Found:
        """Raises ModelRefused. Only models of the hub have facts without loading them."""
        if not isinstance(spec.source, HubModel):
            return Found()
        query = (spec.source.id, spec.revision, token)
        async with self._locks.setdefault(query, asyncio.Lock()):
            answer = self._remembered(query) or await self._ask(query)
        if isinstance(answer, ModelRefused):
            raise ModelRefused(answer.reason, answer.message)
        return answer

    def _remembered(self, query: _Query) -> Answer | None:
        expires, answer = self._answers.get(query, (0.0, None))
        return answer if expires > asyncio.get_running_loop().time() else None

    async def _ask(self, query: _Query) -> Answer:
        answer = await self._fetch(*query)
        good = isinstance(answer, Found) and answer.reachable
        now = asyncio.get_running_loop().time()
        self._answers[query] = (now + (FRESH if good else RETRY), answer)
        return answer

    async def _fetch(self, model: str, revision: str, token: str) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        base = f"{self._endpoint}/{model}/resolve/{quote(revision, safe='')}"
        try:
            async with aiohttp.ClientSession(timeout=TIMEOUT, headers=headers, trust_env=True) as session:
                return await _read(session, base, model, revision)
        except ModelRefused as refused:
            return refused
        except (aiohttp.ClientError, TimeoutError) as error:
            why = f"{self._endpoint} does not answer ({type(error).__name__}: {error})"
            return Found(reachable=False, problem=why)
        except ValueError as error:
            return Found(problem=f"{model}: {error}")


async def _read(session: aiohttp.ClientSession, base: str, model: str, revision: str) -> Found:
    config = await _json(session, f"{base}/config.json", model, revision)
    if config is None:
        return Found(problem=f"{model} has no config.json")
    size = await _weights(session, base, model, revision)
    if not size:
        return Found(problem=f"{model} does not say how large its weights are")
    return Found(from_config(config, size))


async def _weights(session: aiohttp.ClientSession, base: str, model: str, revision: str) -> int:
    """Bytes of the safetensors; 0 if unknown."""
    index = await _json(session, f"{base}/model.safetensors.index.json", model, revision)
    if index is not None:
        return int(index.get("metadata", {}).get("total_size", 0))
    async with session.head(f"{base}/model.safetensors", allow_redirects=False) as response:
        if response.status >= 400:
            return 0
        headers = response.headers  # a large file's own size is in the first, as it lies elsewhere
        return int(headers.get("X-Linked-Size") or headers.get("Content-Length") or 0)


async def _json(session: aiohttp.ClientSession, url: str, model: str, revision: str) -> dict[str, Any] | None:
    """None if the repository has no such file."""
    async with session.get(url) as response:
        code = response.headers.get("X-Error-Code", "")
        if response.status == 404 and code == "EntryNotFound":
            return None
        if refusal := _refusal(response.status, code, model, revision):
            raise refusal
        response.raise_for_status()
        if (response.content_length or 0) > _LARGEST:
            raise ValueError(f"{url} is too large")
        found = json.loads(await response.read())
    if not isinstance(found, dict):
        raise ValueError(f"{url} is not an object")
    return found


def _refusal(status: int, code: str, model: str, revision: str) -> ModelRefused | None:
    """The hub answers 401 also for a repository that does not exist, lest anybody learns of private ones."""
    if code == "RevisionNotFound":
        return ModelRefused("ModelNotFound", f"{model} has no branch, tag or commit {revision!r}")
    if code == "GatedRepo":
        hint = "accept its terms on its page, and set spec.tokenSecretRef to that account's token"
        return ModelRefused("ModelAuthRequired", f"{model} is gated: {hint}")
    if code == "RepoNotFound" or status == 404:
        hint = "check spec.model; if it is private, set spec.tokenSecretRef"
        return ModelRefused("ModelNotFound", f"{model} is not on the hub: {hint}")
    if status in (401, 403):
        hint = "set spec.tokenSecretRef to a token that may read it"
        return ModelRefused("ModelAuthRequired", f"the hub refuses access to {model}: {hint}")
    return None
