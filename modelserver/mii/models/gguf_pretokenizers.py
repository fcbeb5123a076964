"""How byte-level models cut text before merging, by the names in `tokenizer.ggml.pre`.

The rules are those of the models' own tokenizer.json. A name that is not listed is refused: a wrong cut
gives plausible but wrong tokens.
"""

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from mii.errors import UnsupportedModel

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizerRule:
    """`pattern`: what one piece is; None means GPT-2's pattern."""

    pattern: str | None = None
    single_digits: bool = False  # every digit is cut off before the pattern applies
    nfc: bool = False  # text is composed (Unicode NFC) first
    ignore_merges: bool = False  # a piece that is a token is taken whole, whatever the merges say

    def build(self) -> PreTokenizer:
        cuts: list[PreTokenizer] = [Digits(individual_digits=True)] if self.single_digits else []
        if self.pattern is not None:
            cuts.append(Split(Regex(self.pattern), "isolated"))
        return Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=self.pattern is None)])


_GPT2_RULE = PreTokenizerRule()
# transformers' GGUF reader cuts SmolLM's text as GPT-2's. Its merges know no digits, so that shows only where
# spaces come before a digit: "a  1" must keep both spaces in one token.
_SMOLLM_RULE = PreTokenizerRule(single_digits=True)
_LLAMA3_RULE = PreTokenizerRule(_LLAMA3, ignore_merges=True)

RULES = {
    "default": _GPT2_RULE,  # also files from before the key existed
    "gpt-2": _GPT2_RULE,
    "phi-2": _GPT2_RULE,
    "smollm": _SMOLLM_RULE,
    "starcoder": _SMOLLM_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "qwen2": PreTokenizerRule(_QWEN2, nfc=True),
    "deepseek-r1-qwen": PreTokenizerRule(_QWEN2),
    "tekken": PreTokenizerRule(_TEKKEN, ignore_merges=True),
}


def pre_tokenizer(name: str, source: str) -> PreTokenizerRule:
    """Raises UnsupportedModel for a name that is not known."""
    if name not in RULES:
        raise UnsupportedModel(
            f"{source}: tokenizer.ggml.pre {name!r} is not supported (supported: {', '.join(RULES)}); "
            "use the model's safetensors with its tokenizer.json"
        )
    return RULES[name]
