import pytest

from mii.errors import MIIError
from mii.local import manifest

ONE = "kind: MIIDeployment\nmetadata: {name: a}\n"


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "mii.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("text", [ONE, f"---\n{ONE}---\n", f"# a comment\n---\n{ONE}"])
def test_one_document(written, text):
    assert manifest.read(written(text)) == {"kind": "MIIDeployment", "metadata": {"name": "a"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ONE + "---\nkind: Secret\nmetadata: {name: s}\n", "but holds: MIIDeployment/a, Secret/s"),
        ("", "but holds: nothing"),
        ("- a\n", "but holds a list"),
        ("kind: [\n", "is not YAML"),
        (ONE + "spec: {replicas: 1, model: a, replicas: 2}\n", "'replicas' is given twice"),
        ("kind: " + "[" * 3000, "nested too deeply"),
        ("kind: &a [*a]\n", "more than 10000 values"),
        ('kind: "a\\0b"\n', "NUL"),
        ("---\nx: 1\n---\ny: 2\n", "but holds: no kind/no name, no kind/no name"),
    ],
)
def test_anything_else_is_named(written, text, message):
    path = written(text)
    with pytest.raises(MIIError, match=message) as error:
        manifest.read(path)
    assert path in str(error.value)


def test_aliases_are_read(written):
    text = "a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}\n"
    assert manifest.read(written(text)) == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


def test_a_bomb_of_aliases_is_refused(written):
    """Nine to the ninth values, of which nothing may make a text or a copy."""
    lines = ["a0: &a0 x"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(MIIError, match="more than 10000 values"):
        manifest.read(written("\n".join(lines)))


def test_a_missing_file_is_named():
    with pytest.raises(MIIError, match=r"cannot read /no/such\.yaml: .*No such file"):
        manifest.read("/no/such.yaml")


def test_standard_input(monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(ONE))
    assert manifest.read("-")["kind"] == "MIIDeployment"
