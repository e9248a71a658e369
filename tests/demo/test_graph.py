"""Graphs: canonical relations, facts, agreement by hand."""

from __future__ import annotations

import pytest

from fuse_index.demo import Agreement, Graph, Thing, agreement, graph_of_sentence


def test_relations_are_stored_one_way_round():
    things = [Thing("star"), Thing("circle", "red")]
    one = Graph.build(things, [("circle", "right of", "star"), ("circle", "below", "star")])
    two = Graph.build(things[::-1], [("star", "left of", "circle"), ("star", "above", "circle")])
    assert one == two
    assert one.relations == {("star", "left of", "circle"), ("star", "above", "circle")}


def test_facts():
    graph = Graph.build(
        [Thing("circle", "red", "small", ("left", "top")), Thing("star")],
        [("circle", "left of", "star")],
        "navy",
    )
    assert graph.facts() == {
        ("circle",),
        ("circle", "red"),
        ("circle", "small"),
        ("circle", "left"),
        ("circle", "top"),
        ("star",),
        ("circle", "left of", "star"),
        ("background", "navy"),
    }


def test_agreement_by_hand():
    graph = graph_of_sentence("a small red circle left of a blue square")  # 6 facts
    truths = graph.facts() | {("background", "white")}
    said = graph_of_sentence("a red circle left of a green square on a white background")
    # circle, red, square, left of and white are true; green is not
    found = agreement(said, graph, truths)
    assert found.precision == pytest.approx(5 / 6)
    assert found.recall == pytest.approx(4 / 6)
    assert found.f1 == pytest.approx(2 * (5 / 6) * (4 / 6) / (5 / 6 + 4 / 6))


def test_agreement_at_the_ends():
    graph = graph_of_sentence("a large ring above a cross")
    assert agreement(graph, graph, graph.facts()).f1 == 1
    assert agreement(Graph(), graph, graph.facts()) == Agreement(0, 0)
    assert agreement(graph_of_sentence("a heart"), graph, graph.facts()).f1 == 0
