"""Every family as data: Hugging Face's config.json -> (Description, Names). Sources are the configs and the
modelling files of transformers, by model_type."""

from collections.abc import Callable
from typing import Any

from mii.errors import ModelLoadError, UnsupportedModel
from mii.layers.rotary import SCALINGS, Rotary
from mii.models.description import Description, Experts, Names

Config = dict[str, Any]
Family = Callable[[Config], tuple[Description, Names]]

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def llama(config: Config) -> tuple[Description, Names]:
    bias = bool(config.get("attention_bias"))
    description = _llama_like(config, qkv_bias=bias, out_bias=bias, mlp_bias=bool(config.get("mlp_bias")))
    return description, Names()


def mistral(config: Config) -> tuple[Description, Names]:
    return _llama_like(config, windows=_windows(config)), Names()


def qwen2(config: Config) -> tuple[Description, Names]:
    return _llama_like(config, qkv_bias=True, windows=_qwen_windows(config)), Names()


def qwen3(config: Config) -> tuple[Description, Names]:
    bias = bool(config.get("attention_bias"))
    windows = _qwen_windows(config)
    return _llama_like(config, qkv_bias=bias, out_bias=bias, qk_norm=True, windows=windows), Names()


def mixtral(config: Config) -> tuple[Description, Names]:
    experts = Experts(
        count=_need(config, "num_local_experts"),
        per_token=_need(config, "num_experts_per_tok"),
        intermediate=_need(config, "intermediate_size"),
        renormalise=True,
        layers=frozenset(range(_need(config, "num_hidden_layers"))),
    )
    names = Names(
        router="block_sparse_moe.gate",
        expert="block_sparse_moe.experts.{}",
        expert_gate="w1",
        expert_up="w3",
        expert_down="w2",
    )
    return _llama_like(config, experts=experts, windows=_windows(config)), names


def qwen2_moe(config: Config) -> tuple[Description, Names]:
    shared = _need(config, "shared_expert_intermediate_size")
    experts = _qwen_experts(config, shared_intermediate=shared)
    bias = bool(config.get("qkv_bias", True))
    windows = _qwen_windows(config)
    return _llama_like(config, qkv_bias=bias, experts=experts, windows=windows), Names()


def qwen3_moe(config: Config) -> tuple[Description, Names]:
    experts = _qwen_experts(config, shared_intermediate=0)
    bias = bool(config.get("attention_bias"))
    windows = _qwen_windows(config)
    description = _llama_like(
        config, qkv_bias=bias, out_bias=bias, qk_norm=True, experts=experts, windows=windows
    )
    return description, Names()


def phi3(config: Config) -> tuple[Description, Names]:
    names = Names(fused_qkv="self_attn.qkv_proj", fused_gate_up="mlp.gate_up_proj")
    return _llama_like(config, windows=_windows(config)), names


def phi(config: Config) -> tuple[Description, Names]:
    _refuse(config, "qk_layernorm")
    description = _llama_like(
        config,
        norm="layer",
        norm_eps=config.get("layer_norm_eps", 1e-5),
        norm_bias=True,
        block="parallel",
        second_norm=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        head_bias=True,
        gated=False,
    )
    names = Names(final_norm="model.final_layernorm", out="self_attn.dense", up="mlp.fc1", down="mlp.fc2")
    return description, names


def falcon(config: Config) -> tuple[Description, Names]:
    _refuse(config, "alibi")
    heads, hidden = _need(config, "num_attention_heads"), _need(config, "hidden_size")
    new = bool(config.get("new_decoder_architecture"))
    parallel = new or bool(config.get("parallel_attn", True))
    two_norms = new and config.get("num_ln_in_parallel_attn") in (None, 2)
    one_kv_head = not new and bool(config.get("multi_query", True))
    kv_heads = config.get("num_kv_heads") or heads if new else 1 if one_kv_head else heads
    bias = bool(config.get("bias"))
    description = _llama_like(
        {"intermediate_size": config.get("ffn_hidden_size") or 4 * hidden, **config},
        kv_heads=kv_heads,
        norm="layer",
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        norm_bias=True,
        block="parallel" if parallel else "sequential",
        second_norm=two_norms or not parallel,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        activation=_activation(config, "activation", "gelu"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", True)),
    )
    names = Names(
        embed="transformer.word_embeddings",
        final_norm="transformer.ln_f",
        layer="transformer.h.{}",
        first_norm="ln_attn" if two_norms else "input_layernorm",
        second_norm="ln_mlp" if two_norms else "post_attention_layernorm",
        fused_qkv="self_attention.query_key_value",
        qkv_grouped=not one_kv_head,
        out="self_attention.dense",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
    )
    return description, names


def opt(config: Config) -> tuple[Description, Names]:
    hidden, width = _need(config, "hidden_size"), config.get("word_embed_proj_dim")
    before = bool(config.get("do_layer_norm_before", True))
    bias = bool(config.get("enable_bias", True))
    description = _llama_like(
        {"intermediate_size": _need(config, "ffn_dim"), **config},
        norm="layer",
        norm_eps=1e-5,  # torch's default; OPT has no option for it
        norm_bias=bool(config.get("layer_norm_elementwise_affine", True)),
        block="sequential" if before else "post_norm",
        final_norm=before and not config.get("_remove_final_layer_norm"),
        rotary=None,
        learned_position_offset=2,
        embedding_width=width if width not in (None, hidden) else None,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        activation=_activation(config, "activation_function", "relu"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", True)),
    )
    names = Names(
        embed="model.decoder.embed_tokens",
        positions="model.decoder.embed_positions",
        project_in="model.decoder.project_in",
        project_out="model.decoder.project_out",
        final_norm="model.decoder.final_layer_norm",
        layer="model.decoder.layers.{}",
        first_norm="self_attn_layer_norm",
        second_norm="final_layer_norm",
        out="self_attn.out_proj",
        up="fc1",
        down="fc2",
    )
    return description, names


def _llama_like(config: Config, **changes: Any) -> Description:
    """What most configs say in the same words; a family passes what differs."""
    heads, hidden = _need(config, "num_attention_heads"), _need(config, "hidden_size")
    head_dim = config.get("head_dim") or hidden // heads
    max_position = _need(config, "max_position_embeddings")
    shape: dict[str, Any] = {
        "family": _need(config, "model_type"),
        "vocab_size": _need(config, "vocab_size"),
        "hidden": hidden,
        "layers": _need(config, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "intermediate": _need(config, "intermediate_size"),
        "max_position": max_position,
        "original_max_position": _original_positions(config, max_position),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }
    if "rotary" not in changes:
        shape["rotary"] = _rotary(config, head_dim, max_position)
    if "activation" not in changes:
        shape["activation"] = _activation(config, "hidden_act", "silu")
    return Description(**{**shape, **changes})


def _rotary(config: Config, head_dim: int, max_position: int) -> Rotary:
    """From `rope_theta` + `rope_scaling`, or from the `rope_parameters` that newer configs have."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    fraction = parameters.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0
    original = config.get("original_max_position_embeddings")
    if original:  # Phi-3 keeps it beside the scaling, which then starts from the ratio
        parameters.setdefault("original_max_position_embeddings", original)
    if parameters.get("original_max_position_embeddings"):
        parameters.setdefault("factor", max_position / parameters["original_max_position_embeddings"])
    rotary = Rotary(theta=float(theta), dim=int(head_dim * fraction), scaling=parameters)
    if rotary.kind not in SCALINGS:
        raise UnsupportedModel(f"config.json: rope_scaling {rotary.kind!r} is none of {', '.join(SCALINGS)}")
    for key in SCALINGS[rotary.kind]:
        if key not in parameters:
            raise ModelLoadError(f"config.json: rope_scaling {rotary.kind!r} lacks {key!r}")
    return rotary


def _original_positions(config: Config, max_position: int) -> int:
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return int(
        config.get("original_max_position_embeddings")
        or scaling.get("original_max_position_embeddings")
        or max_position
    )


def _windows(config: Config) -> tuple[int | None, ...]:
    window = config.get("sliding_window")
    return (window,) * _need(config, "num_hidden_layers") if window else ()


def _qwen_windows(config: Config) -> tuple[int | None, ...]:
    """Qwen slides only when told to, and only in the layers from max_window_layers on."""
    window, layers = config.get("sliding_window"), _need(config, "num_hidden_layers")
    if not (window and config.get("use_sliding_window")):
        return ()
    kinds = config.get("layer_types")
    slides = (
        [kind == "sliding_attention" for kind in kinds]
        if kinds
        else [layer >= config.get("max_window_layers", layers) for layer in range(layers)]
    )
    return tuple(window if slide else None for slide in slides)


def _qwen_experts(config: Config, *, shared_intermediate: int) -> Experts:
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
    layers = range(_need(config, "num_hidden_layers"))
    return Experts(
        count=config.get("num_local_experts") or _need(config, "num_experts"),
        per_token=_need(config, "num_experts_per_tok"),
        intermediate=_need(config, "moe_intermediate_size"),
        renormalise=bool(config.get("norm_topk_prob")),
        layers=frozenset(i for i in layers if i not in dense and (i + 1) % step == 0),
        shared_intermediate=shared_intermediate,
    )


def _activation(config: Config, key: str, default: str) -> str:
    name = config.get(key) or default
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(f"config.json: {key} {name!r} is none of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _need(config: Config, key: str) -> Any:
    if config.get(key) is None:
        raise ModelLoadError(f"config.json: {key!r} is missing")
    return config[key]


def _refuse(config: Config, key: str) -> None:
    if config.get(key):
        raise UnsupportedModel(f"config.json: {key}={config[key]!r} is not supported")
