"""Text inversion: find a readable prompt whose sentence embedding is that of a hidden text.

The embeddings are those of CLIP's text tower. The source is a small language model with other
tokens; the adapter between them is built on first use and holds the words that are tried, those of
the demo's world. The language model writes sentences; then words are replaced, inserted and left
out, ranked by the gradients at CLIP's hidden states. Everything comes with the package; nothing is
downloaded.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from fuse_index.demo import (
    DemoModel,
    Split,
    make_scene,
    make_sentences,
    model_name,
    write_vocabulary,
)
from fuse_index.models import load_model
from fuse_index.objectives import Fluency, TextSimilarity
from fuse_index.optimize import Budget, Moves, Problem, Term, optimize
from fuse_index.run import AdapterConfig, AdapterStore

hidden = [make_sentences(make_scene(Split.TEST, index), 1)[0].text for index in range(3)]

lm = load_model(model_name(DemoModel.LM))
clip = load_model(model_name(DemoModel.CLIP))
with tempfile.TemporaryDirectory() as folder:
    words = write_vocabulary(Path(folder) / "words.txt")
    adapter = AdapterStore(lm, AdapterConfig(words=str(words))).get(clip)

for text in hidden:
    problem = Problem(
        lm,
        [
            Term(Fluency(weight=0.02), lm),
            Term(TextSimilarity(texts=text), clip, adapter),
        ],
    )
    result = optimize(
        problem,
        "a picture",
        method=Moves(),
        budget=Budget(forward_passes=2000, target_loss=0.05),
    )
    print(f"hidden: {text}")
    print(f"found:  {result.text.strip()}")
    print(
        f"        cosine {1 - result.losses['text']:.3f}, {result.spent['forward_passes']} passes"
    )
