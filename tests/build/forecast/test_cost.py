"""The cost model: operations counted exactly, bytes as written, laws of growth."""

from __future__ import annotations

import pytest
import torch

from fuse_index.adapter.fit._workers import Workers
from fuse_index.adapter.fit.gram import GroupGram
from fuse_index.build import BuildOptions, build_bundle
from fuse_index.build.forecast.cost import TYPICAL_SHARES, estimate, sum_flops
from fuse_index.build.forecast.rates import TYPICAL, measure_rates
from fuse_index.bundle import read_bundle
from fuse_index.errors import OptionError
from fuse_index.words.corpus.words import CorpusOptions


@pytest.mark.parametrize("pair", [(2, 2), (2, 1), (3, 3), (4, 2), (5, 5)])
def test_operations_of_the_sums_are_those_of_the_tiles(pair):
    """Count the products that are really made: tiles above the diagonal come in halves."""
    source, target, k = 1024, 512, max(pair)
    cpu = torch.device("cpu")
    with Workers(cpu) as workers:
        gram = GroupGram(k, source, target, workers=workers, device=cpu)
    counted = sum(2.0 * tile.total.numel() for tile in gram._tiles)
    assert sum_flops(pair, (source, target)) == pytest.approx(counted, rel=0.15)


def test_words_of_one_source_token_are_one_face():
    assert sum_flops((1, 3), (10, 7)) == 2 * 10 * (5 + 21)


def test_shares_are_a_whole():
    assert sum(TYPICAL_SHARES.values()) == pytest.approx(1)


def test_bytes_are_those_on_the_disk(tmp_path, gpt2_dir, minilm_dir, captions_file):
    options = BuildOptions(corpus=CorpusOptions(min_count=5))
    result = build_bundle(
        str(gpt2_dir), str(minilm_dir), tmp_path / "b", [captions_file], options=options
    )
    shapes = read_bundle(tmp_path / "b").table.sizes()
    words = sum(shapes.values())
    expected = estimate(words, (256, 384), shapes).footprint.files
    for name in ("words.safetensors", "groups.safetensors"):
        assert expected[name] == pytest.approx(result.manifest.files[name].size, rel=0.1)


def test_growth():
    small, large = (estimate(n, (256, 384), corpus_bytes=1e9) for n in (10**6, 10**7))
    for stage in ("tokenizing words", "writing the bundle"):
        assert large.seconds[stage] == pytest.approx(10 * small.seconds[stage], rel=0.02)
    assert large.memory_bytes == small.memory_bytes  # nothing grows beyond a shard
    wide = estimate(10**7, (8192, 8192), corpus_bytes=1e9)
    assert 600 < wide.flops / large.flops < 1000  # about the product of the widths
    assert wide.total_seconds == sum(wide.seconds.values())
    faster = estimate(10**7, (256, 384), corpus_bytes=1e12, rates=TYPICAL.scaled(10))
    slower = estimate(10**7, (256, 384), corpus_bytes=1e12)
    assert faster.total_seconds < 0.2 * slower.total_seconds


def test_numbers_that_make_no_sense():
    with pytest.raises(OptionError, match=r"words=0.*expected positive numbers"):
        estimate(0, (1, 1))


def test_rates_are_measured():
    rates = measure_rates(0.05)
    assert rates.flops > 1e8
    assert rates.embedded_bytes > 1e7
    assert rates.solve_flops > 1e7
