"""One condition's verdict, before it is dated."""

from typing import Literal, NamedTuple

from mii_spec.reasons import Reason


class Judgement(NamedTuple):
    """`reason` is one CamelCase word for programs, `message` a sentence for people. True is good."""

    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str = ""
