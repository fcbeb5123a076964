"""Every reason that the operator can give is explained, and nothing else is."""

import ast
import re
from typing import get_args

import pytest

from mii_spec.reasons import MEANINGS, Reason

GIVERS = {"Judgement", "Problem", "ModelRefused", "Refusal", "PlanRefused", "Verdict", "refuse", "wait"}
STATUSES = {"True", "False", "Unknown"}


@pytest.fixture(scope="module")
def given(root):
    """CamelCase texts where the operator's and sizing's sources name a reason."""
    sources = [*(root / "operator/mii_operator").rglob("*.py"), root / "modelserver/mii_spec/sizing.py"]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    texts = {text for node in nodes if names_reasons(node) for text in constants(node)}
    return {text for text in texts if re.fullmatch("[A-Z][A-Za-z]+", text)} - STATUSES


def names_reasons(node):
    if isinstance(node, ast.FunctionDef):
        return isinstance(node.returns, ast.Name) and node.returns.id == "Reason"
    called = node.func if isinstance(node, ast.Call) else None
    return getattr(called, "id", getattr(called, "attr", None)) in GIVERS


def constants(node):
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_what_can_be_given_is_explained_and_nothing_else(given):
    assert given == set(MEANINGS) == set(get_args(Reason))


def test_the_page_for_operators_has_them_all(root):
    rows = [f"| `{reason}` | {' | '.join(filter(None, meaning))} |" for reason, meaning in MEANINGS.items()]
    page = (root / "docs/operations.md").read_text()
    missing = [row for row in rows if row not in page]
    assert not missing, "docs/operations.md lacks\n\n" + "\n".join(missing)


def test_explanations_are_sentences():
    for words, advice in MEANINGS.values():
        assert words.endswith(".")
        assert not advice or advice.endswith(".")
