"""One prompt for several texts: after each of them a language model writes its target.

The texts and targets are lines of a JSONL file, one *item* a line. The run begins with the first
item, adds the next one once the prompt works for all so far, and ends when it works for all.
``--check`` then pastes the prompt into every text and says, token by token, what the model writes.
Files go to the folder given, by default ``several``. Nothing is downloaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fuse_index.cli.main import main

ITEMS = (
    {"prefix": "a big red circle", "target": " on a sandy backdrop"},
    {"prefix": "the picture contains two lovely stars", "target": " on a sandy backdrop"},
    {"prefix": "there is a small blue square", "target": " on a sandy backdrop"},
)
RUN = """\
models:
  lm: demo:lm
objectives:
  - {{type: continuation, model: lm, items: {items}, progressive: true}}
initial: {{length: 6}}
method: gcg
search: beam
budget: {{forward_passes: 30000}}
options: {{early_stop: true}}
"""

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "several")
folder.mkdir(parents=True, exist_ok=True)
items, file = folder / "items.jsonl", folder / "run.yaml"
items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
file.write_text(RUN.format(items=json.dumps(str(items))), encoding="utf-8")
arguments = ["optimize", str(file), "--seed", "1", "--check", "6"]
print(f"$ fuse-index {' '.join(arguments)}\n", flush=True)
sys.exit(main(arguments))
