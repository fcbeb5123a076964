"""Models by shape alone: a config.json of a known model and a tokenizer of its size, weights drawn at random.

    with model("mistral-7b") as directory: …    # serve it with --random-weights

    python benchmarks/shapes.py mistral-7b DIRECTORY && mii serve DIRECTORY --random-weights

No checkpoint is needed, and speed does not depend on what weights say. The tokenizer is not the model's: a
token is a byte or four letters.
"""

import argparse
import contextlib
import itertools
import json
import string
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

LETTERS = 4  # of a token that is not a byte: 26^4 are enough for any vocabulary here

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_MISTRAL = _LLAMA | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "rope_theta": 1e6,
    "sliding_window": None,
}
_7B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}

# From the models' published config.json, by the names of the fields there.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": _LLAMA
    | {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "phi-2": {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "hidden_act": "gelu_new",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "layer_norm_eps": 1e-5,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "partial_rotary_factor": 0.4,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 51200,
        "max_position_embeddings": 2048,
    },
    "mistral-7b": _MISTRAL
    | _7B
    | {
        "vocab_size": 32768,
        "max_position_embeddings": 32768,
    },
    "llama-3-8b": _LLAMA
    | _7B
    | {
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    },
    "mixtral-8x7b": _MISTRAL
    | _7B
    | {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
    },
    "llama-2-70b": _LLAMA
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    },
}


@contextlib.contextmanager
def model(name: str) -> Iterator[Path]:
    """A directory with the shape's files, for as long as it lasts."""
    with tempfile.TemporaryDirectory(prefix=f"mii-{name}-") as directory:
        write(name, Path(directory))
        yield Path(directory)


def write(name: str, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(SHAPES[name], indent=2))
    tokenizer(SHAPES[name]["vocab_size"]).save(str(directory / "tokenizer.json"))


def tokenizer(size: int) -> Tokenizer:
    """A byte-level vocabulary of `size` tokens, the first 256 of them bytes."""
    spelled = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = map("".join, itertools.product(string.ascii_lowercase, repeat=LETTERS))
    vocabulary = {token: index for index, token in enumerate(itertools.islice((*spelled, *words), size))}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@contextlib.contextmanager
def in_argv(argv: list[str]) -> Iterator[list[str]]:
    """The command line with `--shape NAME` replaced by a model and --random-weights; without it, as it is."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--shape", choices=SHAPES)
    found, rest = parser.parse_known_args(argv)
    if found.shape is None:
        yield rest
        return
    with model(found.shape) as directory:
        yield [str(directory), "--random-weights", "--served-model-name", found.shape, *rest]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    write(options.shape, options.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
