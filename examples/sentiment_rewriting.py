"""Rewriting with a feeling: make a sentence positive, keep what it says and keep it readable.

Three models with three tokenizers decide together: a language model (fluency), a classifier (its
label), and CLIP's text tower (the content is that of the old sentence). A second classifier that
took no part is asked what it thinks. Everything comes with the package; nothing is downloaded.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from fuse_index.demo import DemoModel, model_name, write_vocabulary
from fuse_index.models import load_model
from fuse_index.objectives import ClassifierLabel, Fluency, TextSimilarity
from fuse_index.optimize import Budget, Problem, Term, optimize
from fuse_index.run import AdapterConfig, AdapterStore

sentences = [
    "i hate the huge red star above a dreadful blue ring",
    "the drawing shows an ugly blue arrow below a large ring",
    "this picture of a tiny yellow heart looks really hideous",
]

lm = load_model(model_name(DemoModel.LM))
clip = load_model(model_name(DemoModel.CLIP))
sentiment = load_model(model_name(DemoModel.SENTIMENT))
judge = load_model(model_name(DemoModel.JUDGE))
with tempfile.TemporaryDirectory() as folder:
    words = write_vocabulary(Path(folder) / "words.txt")
    store = AdapterStore(lm, AdapterConfig(words=str(words)))
    to_clip, to_sentiment = store.get(clip), store.get(sentiment)


def verdict(text: str) -> str:
    """The label that the second classifier gives, and its probability."""
    batch = judge.batch([judge.words.encode_text(text)])
    scores = judge.forward(judge.embed(batch.ids), batch).logits.softmax(dim=-1)[0]
    return f"{judge.labels[int(scores.argmax())]} ({float(scores.max()):.2f})"


for text in sentences:
    problem = Problem(
        lm,
        [
            Term(Fluency(weight=0.2), lm),
            Term(TextSimilarity(texts=text, weight=5.0), clip, to_clip),
            Term(ClassifierLabel(label="positive"), sentiment, to_sentiment),
        ],
    )
    result = optimize(problem, text, budget=Budget(forward_passes=600))
    new = result.text.strip()
    print(f"old: {text}: {verdict(text)}")
    print(f"new: {new}: {verdict(new)}, similarity {1 - result.losses['text']:.2f}")
print(f"method: {result.chosen}")
