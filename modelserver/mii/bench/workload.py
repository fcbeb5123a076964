"""What the clients ask: lengths and prompts, drawn from a seed alone. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

SPREAD = 0.3  # standard deviation over mean, as in DeepSpeed-FastGen's workloads
FASTGEN = ("1200/60", "1200/128", "2600/60", "2600/128", "500/150", "500/500")

# Each is one token in most byte-pair vocabularies, so that n words are about n tokens.
WORDS = re.findall(
    r"\w+",
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an "
    "they which one you were her all she there would their we him been has when who will more no if out so "
    "said what up its about into than them can only other new some could time these two may then do first "
    "any my now such like our over man me even most made after also did many before must through back years "
    "where much your way well down should because each just those people how too little state good very make "
    "world still own see men work long get here between both life being under never day same another know",
)


@dataclass(frozen=True)
class Job:
    """One request: token ids where the API takes them, else words; both lengths in tokens."""

    prompt: str | list[int]
    prompt_tokens: int  # exact for ids, about right for words
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Lengths ~ N(mean, (spread · mean)²), rounded, at least 1."""

    prompt_mean: int
    new_mean: int
    spread: float = SPREAD

    def __str__(self) -> str:
        return f"{self.prompt_mean}/{self.new_mean}"

    def job(self, random: Random, vocabulary: range | None, limit: int | None = None) -> Job:
        """`limit`: tokens of prompt and output together; a longer draw loses prompt tokens, then output."""
        new = _length(random, self.new_mean, self.spread)
        prompt = _length(random, self.prompt_mean, self.spread)
        if limit is not None:
            new = max(1, min(new, limit - 1))
            prompt = max(1, min(prompt, limit - new))
        return Job(_prompt(random, vocabulary, prompt), prompt, new)


def parse_workload(text: str, spread: float = SPREAD) -> Workload:
    """ "1200/60" → means of prompt and new tokens. Raises ValueError."""
    try:
        prompt, new = (int(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"{text!r} is not PROMPT/NEW in tokens, such as 1200/60") from None
    if prompt < 1 or new < 1:
        raise ValueError(f"{text!r}: both means must be at least 1 token")
    return Workload(prompt_mean=prompt, new_mean=new, spread=spread)


def ordinary_ids(vocab_size: int) -> range:
    """Token ids away from both ends of the vocabulary, where special and unused tokens live."""
    margin = max(1, vocab_size // 16)
    return range(margin, max(vocab_size - margin, margin + 1))


def jobs(
    workload: Workload, *, seed: str, vocabulary: range | None = None, limit: int | None = None
) -> Iterator[Job]:
    """Endless; job i depends on `seed` and i only, so no two prompts share more than chance."""
    index = 0
    while True:
        yield workload.job(Random(f"{seed}/{index}"), vocabulary, limit)
        index += 1


def _length(random: Random, mean: int, spread: float) -> int:
    return max(1, round(random.gauss(mean, spread * mean)))


def _prompt(random: Random, vocabulary: range | None, length: int) -> str | list[int]:
    if vocabulary is not None:
        return random.choices(vocabulary, k=length)
    return " ".join(random.choices(WORDS, k=length))
