"""A target continuation: find the prompt after which a language model writes a text of ours.

One model, one objective, GCG, from a run file: ``fuse-index optimize run.yaml``. Files go to the
folder given, by default ``continuation``. Afterwards the model is asked what it writes after the
prompt, to see that it works. Everything comes with the package; nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fuse_index.cli.main import main
from fuse_index.demo import DemoModel, model_name
from fuse_index.models import load_model
from fuse_index.optimize import Result

RUN = """\
models:
  lm: demo:lm
objectives:
  - {type: continuation, model: lm, target: " on a sandy backdrop"}
initial: {length: 8}
method: gcg
search: beam
budget: {forward_passes: 30000}
options: {early_stop: true}
"""

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "continuation")
folder.mkdir(parents=True, exist_ok=True)
file, out = folder / "run.yaml", folder / "result.json"
file.write_text(RUN, encoding="utf-8")
arguments = ["optimize", str(file), "--seed", "1", "--out", str(out)]
print(f"$ fuse-index {' '.join(arguments)}\n", flush=True)
code = main(arguments)
if code:
    sys.exit(code)

lm = load_model(model_name(DemoModel.LM))
ids = list(Result.load(out).ids)
with torch.no_grad():
    for _ in range(8):
        batch = lm.batch([ids])
        logits = lm.forward(lm.embed(batch.ids), batch).logits
        ids.append(int(logits[0, -1].argmax()))
print(f"the model goes on: {lm.words.decode(ids)}")
