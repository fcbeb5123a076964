"""The tokenizer that belongs to an EngineConfig."""

from mii.config import EngineConfig
from mii.models.config import load_config
from mii.models.snapshot import fetch
from mii.models.tokenizer import Tokenizer, load_tokenizer


def tokenizer_for(config: EngineConfig) -> Tokenizer:
    """Fetches no weights. Raises ModelLoadError if there is no usable tokenizer.

    A tokenizer from elsewhere does not know every token that this model ends on, so the model's are added.
    """
    model = fetch(config.model, config.revision, weights=False)
    if config.tokenizer is None:
        return load_tokenizer(model)
    stated = load_config(model).get("eos_token_id")
    ends = () if stated is None else tuple(stated) if isinstance(stated, list) else (stated,)
    return load_tokenizer(fetch(config.tokenizer, weights=False), eos_token_ids=ends)
