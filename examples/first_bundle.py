"""Build a first bundle from two models that come with the package, and look at its signal.

A small language model (byte-level BPE) is the source and a sentiment classifier (WordPiece) the
target; the corpus are sentences about pictures of shapes. The bundle, the measured signal and a
plot go to the folder given, by default ``bundles``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, Split, corpus, model_name, verify, write_corpus

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "bundles")
folder.mkdir(parents=True, exist_ok=True)
text, unseen, bundle = folder / "corpus.txt", folder / "unseen.txt", folder / "lm-sentiment"
write_corpus(text)
unseen.write_text("\n".join(s.text for s in corpus(Split.TEST, 200)), encoding="utf-8")

verify()  # the packaged weights are intact
source, target = model_name(DemoModel.LM), model_name(DemoModel.SENTIMENT)
plot = folder / "signal.png"
for command in (
    ["build", source, target, "--corpus", text, "--out", bundle, "--overwrite"],
    ["inspect", bundle],
    ["validate", bundle, "--texts", unseen, "--candidates", 100, "--plot", plot],
):
    arguments = [str(item) for item in command]
    print(f"\n$ fuse-index {' '.join(arguments)}\n", flush=True)
    code = main(arguments)
    if code:
        sys.exit(code)
print(f"\nThe plot is {plot}.")
