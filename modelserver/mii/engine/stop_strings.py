"""Stop strings in a stream of text.

An Aho-Corasick automaton (Aho & Corasick, 1975) reads the text a character at a time, however many strings
there are. Its state is the longest suffix of the text that could still grow into a stop string, so its depth
is exactly how much must be held back.
"""

from collections import deque
from collections.abc import Iterable


class StopStrings:
    """The match that is complete first wins; of several that end together, the longest."""

    def __init__(self, strings: Iterable[str], *, include: bool = False) -> None:
        """`include`: the text that goes out ends with the stop string instead of before it."""
        self._automaton = _Automaton(strings)
        self._include = include
        self._state = 0
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """What may go out now, and the stop string if one is complete. Nothing may be fed after that."""
        automaton, state = self._automaton, self._state
        for i, character in enumerate(text):
            state = automaton.step(state, character)
            if stop := automaton.ends[state]:
                return self._cut(self._held + text[: i + 1], stop), stop
        self._state = state
        return self._release(self._held + text, automaton.depth[state]), None

    def flush(self) -> str:
        """What was held back."""
        return self._cut(self._held, "")

    def _cut(self, text: str, stop: str) -> str:
        self._held, self._state = "", 0
        return text if self._include else text[: len(text) - len(stop)]

    def _release(self, text: str, held: int) -> str:
        cut = len(text) - held
        self._held = text[cut:]
        return text[:cut]


class _Automaton:
    """States are numbered from the root, 0. A state stands for a prefix of some stop string."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._children: list[dict[str, int]] = [{}]
        self._fallback = [0]  # the longest proper suffix of a state that is a state
        self.depth = [0]  # a state's length
        self.ends: list[str | None] = [None]  # the longest stop string that a state ends with
        for string in strings:
            self._insert(string)
        self._link()

    def step(self, state: int, character: str) -> int:
        while True:
            child = self._children[state].get(character)
            if child is not None:
                return child
            if state == 0:
                return 0
            state = self._fallback[state]

    def _insert(self, string: str) -> None:
        state = 0
        for character in string:
            state = self._children[state].get(character) or self._grow(state, character)
        self.ends[state] = string

    def _grow(self, parent: int, character: str) -> int:
        state = len(self.depth)
        self._children[parent][character] = state
        self._children.append({})
        self._fallback.append(0)
        self.depth.append(self.depth[parent] + 1)
        self.ends.append(None)
        return state

    def _link(self) -> None:
        """Breadth first: a fallback is shorter than its state, so it is already complete."""
        queue = deque(self._children[0].values())
        while queue:
            state = queue.popleft()
            self.ends[state] = self.ends[state] or self.ends[self._fallback[state]]
            for character, child in self._children[state].items():
                self._fallback[child] = self.step(self._fallback[state], character)
                queue.append(child)
