"""MII's `inference_engine_config`: DeepSpeed's sections, or the options of EngineConfig by name. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from mii.config import EngineConfig

# DeepSpeed's "section.option" by the option of ours that does the same.
_DEEPSPEED = {
    "state_manager.max_ragged_batch_size": "token_budget",
    "state_manager.max_ragged_sequence_count": "max_running",
    "state_manager.max_context": "max_model_len",
    "tensor_parallel.tp_size": "tensor_parallel",
}
_SECTIONS = {name.split(".")[0] for name in _DEEPSPEED}
_ELSEWHERE = {"model", "tokenizer"}  # set by model_name_or_path and tokenizer
_OWN = tuple(name for name in EngineConfig.__struct_fields__ if name not in _ELSEWHERE)


def engine_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of EngineConfig by name. Raises ValueError naming an unknown option or one of a wrong type."""
    options: dict[str, Any] = {}
    for name, value in _flat(config):
        target = _DEEPSPEED.get(name, name)
        if target not in _OWN:
            raise ValueError(f"unknown option {name!r}; there are: {', '.join([*_OWN, *_DEEPSPEED])}")
        options[target] = value
    _check(options)
    return options


def _flat(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping) and name in _SECTIONS:
            flat += [(f"{name}.{inner}", option) for inner, option in value.items()]
        else:
            flat.append((name, value))
    return flat


def _check(options: dict[str, Any]) -> None:
    try:
        msgspec.convert({"model": "", **options}, EngineConfig)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
