"""The embedded default: a small world of pictures and sentences, and tiny models of it."""

from fuse_index.demo.corpus import corpus, vocabulary, write_corpus, write_vocabulary
from fuse_index.demo.drawing import draw
from fuse_index.demo.grammar import FULL, Sentence, SentenceOptions, make_sentences
from fuse_index.demo.graph import Graph, Thing, agreement
from fuse_index.demo.lexicon import Sentiment
from fuse_index.demo.packaged import DemoModel, model_name, verify
from fuse_index.demo.parsing import graph_of_sentence
from fuse_index.demo.scene import Item, Scene, make_scene
from fuse_index.demo.splits import Split
from fuse_index.evaluate.graphs import Agreement

__all__ = [
    "FULL",
    "Agreement",
    "DemoModel",
    "Graph",
    "Item",
    "Scene",
    "Sentence",
    "SentenceOptions",
    "Sentiment",
    "Split",
    "Thing",
    "agreement",
    "corpus",
    "draw",
    "graph_of_sentence",
    "make_scene",
    "make_sentences",
    "model_name",
    "verify",
    "vocabulary",
    "write_corpus",
    "write_vocabulary",
]
