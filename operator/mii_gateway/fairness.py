"""Whose request is next. Pure.

A virtual token counter per tenant (Sheng et al., "Fairness in Serving Large Language Models", 2024,
algorithm 2): tokens served count, answers more than prompts, and whoever has had least comes first.
"""

from collections.abc import Collection

INPUT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0  # as in the paper


class TokenCounters:
    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._latest = ""  # the tenant that was served last

    def arrive(self, tenant: str, waiting: Collection[str]) -> None:
        """`tenant` begins to wait besides `waiting`: what it did not ask for earlier is no credit."""
        floor = min((self._count(other) for other in waiting), default=self._count(self._latest))
        self._served[tenant] = max(self._count(tenant), floor)

    def charge(self, tenant: str, *, prompt_tokens: int = 0, output_tokens: int = 0) -> None:
        self._served[tenant] = (
            self._count(tenant) + INPUT_WEIGHT * prompt_tokens + OUTPUT_WEIGHT * output_tokens
        )
        self._latest = tenant

    def order(self, waiting: Collection[str]) -> list[str]:
        """Who has had least comes first; among equals who waits longest."""
        return sorted(waiting, key=self._count)

    def _count(self, tenant: str) -> float:
        return self._served.get(tenant, 0.0)
