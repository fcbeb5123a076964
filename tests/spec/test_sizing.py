"""Tensor-parallel widths for published models on the GPUs people have."""

import pytest

from mii_spec.model_facts import from_config
from mii_spec.sizing import GIB, Choice, GpuFacts, Refusal, Request, choose, widths

# The published config.json (what sizing reads of it) and the checkpoint's bytes.
LLAMA_3 = {"model_type": "llama", "torch_dtype": "bfloat16", "num_key_value_heads": 8}
MODELS = {
    "SmolLM2-135M": (
        {
            "model_type": "llama",
            "hidden_size": 576,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "num_hidden_layers": 30,
            "max_position_embeddings": 8192,
            "torch_dtype": "bfloat16",
        },
        269_030_016,
    ),
    "Mistral-7B": (
        {
            "model_type": "mistral",
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 32,
            "max_position_embeddings": 32768,
            "torch_dtype": "bfloat16",
        },
        14_496_047_104,
    ),
    "Llama-3-8B": (
        LLAMA_3
        | {
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "max_position_embeddings": 8192,
        },
        16_060_522_496,
    ),
    "Llama-3-70B": (
        LLAMA_3
        | {
            "hidden_size": 8192,
            "num_attention_heads": 64,
            "num_hidden_layers": 80,
            "max_position_embeddings": 8192,
        },
        141_107_412_992,
    ),
    "Llama-3.1-405B": (
        LLAMA_3
        | {
            "hidden_size": 16384,
            "num_attention_heads": 128,
            "num_hidden_layers": 126,
            "max_position_embeddings": 131072,
        },
        811_706_728_448,
    ),
    "Mixtral-8x7B": (
        {
            "model_type": "mixtral",
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_hidden_layers": 32,
            "max_position_embeddings": 32768,
            "torch_dtype": "bfloat16",
        },
        93_405_585_408,
    ),
    "Falcon-7B": (
        {
            "model_type": "falcon",
            "hidden_size": 4544,
            "num_attention_heads": 71,
            "num_kv_heads": 71,
            "num_hidden_layers": 32,
            "multi_query": True,
            "new_decoder_architecture": False,
            "torch_dtype": "bfloat16",
        },
        14_434_379_776,
    ),
    "Falcon-40B": (
        {
            "model_type": "falcon",
            "hidden_size": 8192,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "num_hidden_layers": 60,
            "new_decoder_architecture": True,
            "torch_dtype": "bfloat16",
        },
        83_671_351_296,
    ),
}

# What nvidia-smi shows, in MiB: A10, A100 40 GB, H100 80 GB, H200 141 GB.
MEMORY = {24: 23028, 40: 40960, 80: 81559, 141: 143771}

# Width that `auto` takes on a node of eight; None: does not fit.
WIDTHS = {
    "SmolLM2-135M": {24: 1, 40: 1, 80: 1, 141: 1},
    "Mistral-7B": {24: 1, 40: 1, 80: 1, 141: 1},
    "Llama-3-8B": {24: 1, 40: 1, 80: 1, 141: 1},
    "Llama-3-70B": {24: 8, 40: 4, 80: 2, 141: 1},
    "Llama-3.1-405B": {24: None, 40: None, 80: None, 141: 8},
    "Mixtral-8x7B": {24: 8, 40: 4, 80: 2, 141: 1},
    "Falcon-7B": {24: 1, 40: 1, 80: 1, 141: 1},
    "Falcon-40B": {24: 4, 40: 4, 80: 2, 141: 1},
}


def facts(name):
    config, size = MODELS[name]
    return from_config(config, size)


def gpus(gigabytes, per_node=8):
    return GpuFacts(memory_bytes=MEMORY[gigabytes] * 2**20, per_node=per_node)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gigabytes", MEMORY)
def test_auto_takes_the_smallest_width_that_fits(name, gigabytes):
    choice = choose(facts(name), gpus(gigabytes), Request())
    expected = WIDTHS[name][gigabytes]
    if expected is None:
        assert isinstance(choice, Refusal)
        assert choice.reason == "ModelDoesNotFit"
    else:
        assert isinstance(choice, Choice)
        assert (choice.tensor_parallel, choice.gpus) == (expected, expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SmolLM2-135M", [1, 3, 9]),
        ("Mistral-7B", [1, 2, 4, 8, 16, 32]),
        ("Llama-3-70B", [1, 2, 4, 8, 16, 32, 64]),
        ("Falcon-7B", [1, 71]),
        ("Falcon-40B", [1, 2, 4, 8, 16, 32, 64, 128]),
    ],
)
def test_widths_that_divide_the_heads(name, expected):
    assert widths(facts(name), 128) == expected


@pytest.mark.parametrize(
    ("name", "width", "reason", "words"),
    [
        (
            "SmolLM2-135M",
            2,
            "InvalidParallelism",
            "3 KV heads; it can be one of 1, 3, 9",
        ),
        ("Falcon-7B", 2, "InvalidParallelism", "71 attention heads"),
        ("Mistral-7B", 3, "InvalidParallelism", "32 attention heads"),
        ("Llama-3-70B", 1, "ModelDoesNotFit", "131.42 GiB / 1"),
        ("Llama-3-70B", 1, "ModelDoesNotFit", "width 2 would fit"),
        ("Llama-3.1-405B", 4, "ModelDoesNotFit", "nor does any width up to 8"),
    ],
)
def test_an_explicit_width_is_refused_with_the_arithmetic(name, width, reason, words):
    refusal = choose(facts(name), gpus(80), Request(gpus=width))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert words in refusal.message


@pytest.mark.parametrize(
    "request_", [Request(gpus=4), Request(tensor_parallel=4), Request(gpus=4, tensor_parallel=4)]
)
def test_an_explicit_width_is_taken_even_if_fewer_would_do(request_):
    choice = choose(facts("Mistral-7B"), gpus(80), request_)
    assert isinstance(choice, Choice)
    assert (choice.tensor_parallel, choice.gpus) == (4, 4)


def test_more_than_a_node_has_is_asked_for_all_the_same():
    """The scheduler says what is missing; nodes may join later."""
    choice = choose(facts("Mistral-7B"), gpus(80, per_node=2), Request(gpus=8))
    assert isinstance(choice, Choice)
    assert choice.gpus == 8


def test_gpus_beyond_the_width_would_idle():
    refusal = choose(facts("Mistral-7B"), gpus(80), Request(gpus=4, tensor_parallel=2))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "InvalidParallelism"


def test_a_longer_context_or_a_smaller_cache_needs_more_gpus():
    def width(length, fraction=0.9):
        request = Request(max_model_len=length, kv_memory_fraction=fraction)
        choice = choose(facts("Mixtral-8x7B"), gpus(24), request)
        return choice.tensor_parallel if isinstance(choice, Choice) else choice.reason

    assert width(32768) == 8
    assert width(32768, fraction=0.04) == "ModelDoesNotFit"
    assert width(1024, fraction=0.04) == 8


def test_float32_doubles_the_weights():
    model = facts("Falcon-40B")
    assert model.cast("float32").parameter_bytes == 2 * model.parameter_bytes
    assert model.cast("auto") == model.cast("bfloat16") == model
    choice = choose(model.cast("float32"), gpus(80), Request())
    assert isinstance(choice, Choice)
    assert choice.tensor_parallel == 4


@pytest.mark.parametrize(
    ("gpu", "request_", "expected"),
    [
        (None, Request(), 0),
        (None, Request(gpus=0), 0),
        (None, Request(tensor_parallel=1), 0),
        (None, Request(gpus=2), 2),
        (None, Request(tensor_parallel=2), 2),
        (GpuFacts(memory_bytes=80 * GIB, per_node=8), Request(gpus=0), 0),
        (GpuFacts(memory_bytes=None, per_node=8), Request(), 1),
    ],
)
def test_what_is_not_known_or_not_there(gpu, request_, expected):
    for model in (facts("Mistral-7B"), None):
        choice = choose(model, gpu, request_)
        assert isinstance(choice, Choice)
        assert choice.gpus == expected
        assert choice.tensor_parallel == max(1, expected)
        assert choice.explanation


def test_ranks_can_share_a_cpu():
    choice = choose(facts("Mistral-7B"), None, Request(gpus=0, tensor_parallel=2))
    explanation = ("gpus: 0: runs on the CPU", "width 2 as asked for")
    assert choice == Choice(2, 0, explanation)
    assert choose(None, None, Request(gpus=0, tensor_parallel=2)) == choice
    refusal = choose(facts("Mistral-7B"), None, Request(gpus=0, tensor_parallel=3))
    assert isinstance(refusal, Refusal)
    assert refusal.message.startswith("width 3 does not divide the model: it has 32 attention heads")


def test_a_model_of_unknown_size_gets_one_gpu():
    choice = choose(None, gpus(80), Request())
    assert isinstance(choice, Choice)
    assert (choice.gpus, choice.explanation) == (
        1,
        ("the model's size is not known: one GPU; set spec.gpus for more",),
    )


def test_the_explanation_shows_every_width_that_was_tried():
    choice = choose(facts("Llama-3-70B"), gpus(40), Request())
    assert isinstance(choice, Choice)
    assert choice.explanation[0] == "width 4 is the smallest that fits"
    assert [line.partition(":")[0] for line in choice.explanation[1:]] == ["width 1", "width 2", "width 4"]
    assert choice.explanation[3] == (
        "width 4: weights 131.42 GiB / 4 + KV of 8192 tokens 0.69 GiB + reserve 1.50 GiB "
        "= 35.05 GiB per GPU, fits in 40.00 GiB"
    )


def test_a_refusal_points_at_larger_gpus_if_there_are_any():
    small = GpuFacts(memory_bytes=16 * GIB, per_node=4, mixed=True)
    refusal = choose(facts("Llama-3-70B"), small, Request())
    assert isinstance(refusal, Refusal)
    assert refusal.message.endswith(
        "a node has at most 4 GPUs; spec.accelerator.product can ask for the larger ones"
    )
