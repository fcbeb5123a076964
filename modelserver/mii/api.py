"""DeepSpeed-MII's entry points: `mii.pipeline`, `mii.async_pipeline`, `mii.serve`."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mii.config import EngineConfig
from mii.engine.tokenizing import tokenizer_for
from mii.errors import MIIError
from mii.local.devices import gpu_groups
from mii.mii_config import ModelConfig, parse_mii_config, parse_model_config
from mii.pipelines import MIIPipeline

if TYPE_CHECKING:
    from mii.async_pipeline import MIIAsyncPipeline
    from mii.clients import MIIClient

__all__ = ["MIIPipeline", "async_pipeline", "pipeline", "serve"]


def pipeline(
    model_name_or_path: str = "",
    model_config: Mapping[str, Any] | None = None,
    all_rank_output: bool = False,
    **options: Any,
) -> MIIPipeline:
    """Loads a model into this process. `options` are ModelConfig's fields.

    With tensor_parallel the other ranks are processes of the pipeline's own, until `destroy`;
    `all_rank_output` changes nothing, for the caller has all there is. Raises UnknownArgument, pydantic's
    ValidationError or ModelLoadError, each naming what is wrong.
    """
    del all_rank_output
    config = engine_config(parse_model_config(model_name_or_path, model_config, options))
    from mii.engine.leading import open_engine  # brings torch

    return MIIPipeline(open_engine(config), tokenizer_for(config))


def async_pipeline(
    model_name_or_path: str = "", model_config: Mapping[str, Any] | None = None, **options: Any
) -> "MIIAsyncPipeline":
    """The same for an event loop; `async with` loads the model, see mii.async_pipeline.MIIAsyncPipeline."""
    from mii.async_pipeline import MIIAsyncPipeline

    return MIIAsyncPipeline(engine_config(parse_model_config(model_name_or_path, model_config, options)))


def serve(
    model_name_or_path: str = "",
    model_config: Mapping[str, Any] | None = None,
    mii_config: Mapping[str, Any] | None = None,
    **options: Any,
) -> "MIIClient":
    """Starts a deployment of replicas and a gateway on this machine; returns a client when it is ready.

    `options` are the fields of ModelConfig and MIIConfig. The deployment goes on after this script ends,
    until `terminate_server()` or `mii down NAME`. Raises UnknownArgument or pydantic's ValidationError for a
    wrong option, and DeploymentFailed, with the failed process's own words, leaving no process behind.
    """
    from mii.clients import MIIClient
    from mii.local import launch

    config = parse_mii_config(model_name_or_path, model_config, mii_config, options)
    launch.launch(config)
    return MIIClient(config.deployment_name)


def engine_config(config: ModelConfig) -> EngineConfig:
    """What a pipeline's engine needs. Raises MIIError for what only mii.serve can do."""
    if config.replica_num != 1:
        raise MIIError(
            f"replica_num is {config.replica_num}: a pipeline is one replica; mii.serve starts more"
        )
    if config.sync_debug and os.environ.get("CUDA_LAUNCH_BLOCKING") != "1":
        raise MIIError("sync_debug in a pipeline needs CUDA_LAUNCH_BLOCKING=1 set before Python starts")
    _refuse_launcher(config)
    options = config.engine_options
    if config.device_map != "auto":
        options.setdefault("device", _device(config.device_map))
    return EngineConfig(**options)


def _refuse_launcher(config: ModelConfig) -> None:
    """torchrun and deepspeed run a script once a rank; each of them would start all the ranks."""
    rank, world = os.environ.get("RANK"), int(os.environ.get("WORLD_SIZE", "1"))
    if rank is not None and world > 1:
        raise MIIError(
            f"this script is run as rank {rank} of {world} by a launcher, but a pipeline starts its own "
            f"ranks: run it once, with tensor_parallel={max(world, config.tensor_parallel)}"
        )


def _device(device_map: Any) -> str:
    groups = gpu_groups(device_map)
    if len(groups) != 1 or len(groups[0]) != 1:
        raise MIIError(
            f"device_map {device_map!r}: a pipeline runs on one GPU, give its number; the ranks of "
            "tensor_parallel take the visible GPUs in order: set CUDA_VISIBLE_DEVICES"
        )
    return f"cuda:{groups[0][0]}"
