"""Captions of pictures by prompt optimization, plain and positive, by ``fuse-index caption``.

Draws three pictures of the demo's world that no model was trained on, captions them twice with the
packaged models, and compares the captions with the truth, the scenes the pictures were drawn from.
The pictures and captions go to the folder given, by default ``captions``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fuse_index.cli.main import main
from fuse_index.demo import Split, agreement, draw, graph_of_sentence, make_scene, write_vocabulary

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "captions")
folder.mkdir(parents=True, exist_ok=True)
scenes = [make_scene(Split.TEST, index) for index in range(3)]
pictures = [folder / f"scene-{index}.png" for index in range(len(scenes))]
for scene, picture in zip(scenes, pictures, strict=True):
    draw(scene).save(picture)
words = write_vocabulary(folder / "words.txt")

models = ["--lm", "demo:lm", "--clip", "demo:clip", "--adapters.words", words]
positive = ["--classifier", "demo:sentiment", "--label", "positive"]
for name, more in (("plain", []), ("positive", positive)):
    out = folder / f"{name}.json"
    arguments = [*map(str, [*pictures, *models, *more]), "--out", str(out)]
    print(f"\n$ fuse-index caption {' '.join(arguments)}\n", flush=True)
    code = main(["caption", *arguments])
    if code:
        sys.exit(code)
    found = json.loads(out.read_text(encoding="utf-8"))["captions"]
    for scene, item in zip(scenes, found, strict=True):
        said = agreement(graph_of_sentence(item["caption"]), scene.graph, scene.truths)
        print(f"{item['caption']}: precision {said.precision:.2f}, recall {said.recall:.2f}")
