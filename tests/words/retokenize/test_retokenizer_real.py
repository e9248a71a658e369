"""The retokenizer on the real pairs: GPT-2's tokens to MiniLM's and open_clip's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_index.words.retokenize.retokenizer import Retokenizer
from fuse_index.words.tokenizers.tokenization import WordTokenizer
from tests.words.retokenize.test_retokenizer import as_arrays, assert_consistent, reference
from tests.words.tokenizers_zoo import wrapped


@pytest.mark.parametrize("name", ["minilm_dir", "open_clip"])
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6))
def test_the_real_pairs(name, real_retokenizers, seed):
    source, target, retokenizer = real_retokenizers[name]
    generator = np.random.default_rng(seed)
    base = source.encode_text("a photo of two brown dogs running over the wet grass near a boat")
    ids = np.tile(base, (40, 1))
    ids[np.arange(40), generator.integers(0, len(base), 40)] = generator.integers(0, 50257, 40)
    rows = [*ids.tolist(), *generator.integers(0, 50257, (20, 6)).tolist()]
    result = retokenizer.retokenize(*as_arrays(rows))
    assert result.target.to_lists() == reference(source, target, rows)
    assert_consistent(result, rows)


@pytest.fixture(scope="module")
def real_retokenizers(gpt2_dir, minilm_dir):
    from transformers import AutoTokenizer

    source = WordTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(gpt2_dir))
    minilm = WordTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(minilm_dir))
    targets = {"minilm_dir": minilm, "open_clip": wrapped("open_clip")}
    return {name: (source, target, Retokenizer(source, target)) for name, target in targets.items()}
