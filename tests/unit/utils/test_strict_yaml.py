"""Strict YAML: what stands there is what is read, and equal keys are a mistake."""

from pathlib import Path

import pytest
import yaml

from n2s_dist.utils.errors import UserError
from n2s_dist.utils.strict_yaml import read_yaml

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def read(tmp_path):
    def from_text(text: str, as_text: bool = False):
        (tmp_path / "given.yaml").write_text(text)
        return read_yaml(tmp_path / "given.yaml", as_text)

    return from_text


@pytest.mark.parametrize(
    ("word", "value"),
    [("010", "010"), ("1:30", "1:30"), ("no", "no"), ("On", "On"), ("0x10", "0x10"), ("2024-01-01", "2024-01-01"),
     ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5), ("-0.25", -0.25), ("12", 12), ("-7", -7), ("10_000", 10_000), ("0", 0),
     ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("'12'", "12"), (".", "."),
     ("e5", "e5"), (".inf", float("inf"))],
)  # fmt: skip
def test_a_scalar_is_a_number_or_a_truth_value_where_it_looks_like_one(read, word, value):
    found = read(f"key: {word}\n")["key"]
    assert found == value and type(found) is type(value)
    if value is not None:
        assert read(f"key: {word}\n", as_text=True) == {"key": word.strip("'")}


@pytest.mark.parametrize(
    ("text", "lines"),
    [("a: 1\nb: 2\na: 3\n", "1 and 3"), ("x:\n  a: 1\n  a: 1\n", "2 and 3"), ("- {'a': 1,\n  a: 2}", "1 and 2")],
)
def test_a_key_that_comes_twice_is_named_with_both_lines(read, text, lines):
    with pytest.raises(UserError, match=rf"given\.yaml: the key 'a' comes twice, in lines {lines}"):
        read(text)


def test_merged_keys_may_be_overridden(read):
    assert read("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 5\n")["b"] == {"x": 5, "y": 2}


@pytest.mark.parametrize(
    "text", ["a: [1", "\ta: 1", "a: 1\n---\na: 2\n", "a: !!python/object/apply:os.getcwd []", "[" * 1000, "a: !!int x"]
)
def test_anything_else_is_refused_in_one_line(read, text):
    with pytest.raises(UserError, match=r"given\.yaml is not readable as YAML") as error:
        read(text)
    assert "\n" not in str(error.value) and "byte string" not in str(error.value)


@pytest.mark.parametrize(
    "path", [*ROOT.glob("shards/*.yaml"), ROOT / "n2s_dist/evaluation/paper.yaml"], ids=lambda path: path.stem
)
def test_shipped_files_hold_the_same_as_by_yaml_1_1(path):
    assert read_yaml(path) == yaml.safe_load(path.read_text())
