"""transformers' own model and generate, which our engine is compared with."""

import time
from pathlib import Path
from typing import Any

import torch

from mii.models.snapshot import fetch

Request = tuple[list[int], int]  # prompt, new tokens


def load_transformers(name: str, dtype: str, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    snapshot = fetch(name)
    gguf = snapshot.gguf.name if snapshot.gguf else None
    directory = snapshot.gguf.parent if snapshot.gguf else Path(snapshot.directory)
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=gguf, dtype=getattr(torch, dtype))
    return model.to(device).eval()


@torch.inference_mode()
def run_transformers(model: Any, requests: list[Request]) -> float:
    begun = time.perf_counter()
    for prompt, new in requests:
        token_ids = torch.tensor([prompt], device=model.device)
        out = model.generate(
            token_ids,
            attention_mask=torch.ones_like(token_ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
        assert out.shape[1] == len(prompt) + new
    return time.perf_counter() - begun
