"""Trains a small Llama on text that every machine has, for those that have no checkpoint.

    python benchmarks/trained.py DIRECTORY [--seconds 60] [--size small|tiny] [--text FILE…]

Random weights are enough to measure speed, but their likeliest tokens lead by so little that rounding
decides between them. A minute on a GPU gives a model that is as sure of its tokens as real ones are. Writes a
bfloat16 checkpoint with a tokenizer of bytes that `mii serve` loads, and prints the loss of the last steps.
Without --text it reads the modules of Python's standard library.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import shapes

VOCABULARY = 512
TEXT_BYTES = 6_000_000
SIZES: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 128,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
}
LENGTH, BATCH, RATE = 512, 32, 6e-4  # tokens of a sequence, sequences of a step, learning rate at its highest


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--text", type=Path, nargs="+", metavar="FILE", default=standard_library())
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = shapes.tokenizer(VOCABULARY)
    tokens = read(options.text, tokenizer).to(device)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **SIZES[options.size])
    model = LlamaForCausalLM(config).to(device)
    steps, loss = train(model, tokens, options.seconds)
    model.to(torch.bfloat16).save_pretrained(options.directory)
    tokenizer.save(str(options.directory / "tokenizer.json"))
    print(json.dumps({"bench": "trained", "size": options.size, "steps": steps, "loss": round(loss, 4)}))
    return 0


def standard_library() -> list[Path]:
    return sorted(Path(os.__file__).parent.glob("*.py"))


def read(paths: list[Path], tokenizer: Tokenizer) -> Tensor:
    """Token ids of the files, one after another, of the first TEXT_BYTES characters."""
    text = "".join(path.read_text(errors="ignore") for path in paths)
    tokens = torch.tensor(tokenizer.encode(text[:TEXT_BYTES]).ids)
    if len(tokens) <= LENGTH:
        raise SystemExit(f"--text: {len(tokens)} tokens are too few for sequences of {LENGTH}")
    return tokens


def train(model: Any, tokens: Tensor, seconds: float) -> tuple[int, float]:
    """Steps taken, and the mean loss of the last ones, in nats a token."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95))
    begun, losses = time.monotonic(), [0.0]
    while (spent := (time.monotonic() - begun) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, len(losses) / 50, 2 * (1 - spent) + 0.02)
        starts = torch.randint(len(tokens) - LENGTH, (BATCH, 1), device=tokens.device)
        batch = tokens[starts + torch.arange(LENGTH, device=tokens.device)]
        with torch.autocast(tokens.device.type, torch.bfloat16):
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    last = losses[-20:]
    return len(losses) - 1, sum(last) / len(last)


if __name__ == "__main__":
    sys.exit(main())
