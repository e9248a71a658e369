"""Run files and flags as people write them mean what stands there, or are refused."""

from __future__ import annotations

import pytest

from fuse_index.errors import OptionError
from fuse_index.run import load_file, override


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "budget: 3\nobjectives: [fluency]\nobjectives: [repetition]\n"),
        ("run.json", '{"budget": 3,\n"objectives": ["fluency"],\n"objectives": ["repetition"]}'),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, name, text):
    """A section was copied and the old one stayed: the last one counted, without a word.

    https://github.com/yaml/pyyaml/issues/165
    """
    (tmp_path / name).write_text(text, encoding="utf-8")
    message = "line 3: key 'objectives' stands twice, first in line 2; expected every key once"
    with pytest.raises(OptionError, match=message):
        load_file(tmp_path / name)


@pytest.mark.parametrize("name", ["my-lm", "qwen2.5"])
def test_a_model_is_named_in_flags_as_in_the_file(name):
    """A model called by its version, with a dot or a hyphen: the flag made another model of it.

    https://github.com/hydra-ecosystem/hydra/issues/913
    """
    value = {"models": {name: "demo:lm"}}
    override(value, [(f"models.{name}.dtype", "bfloat16")])
    assert value == {"models": {name: {"model": "demo:lm", "dtype": "bfloat16"}}}
