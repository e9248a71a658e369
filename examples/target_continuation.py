"""A target continuation: find the prompt after which a language model writes a text of ours.

One model, one objective, GCG, from a run file: ``fuse-index optimize run.yaml``. Files go to the
folder given, by default ``continuation``. Afterwards (``--check``) the prompt is pasted as text and
the model is asked what it writes behind it, to see that it works. Everything comes with the
package; nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fuse_index.cli.main import main
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
arguments = ["optimize", str(file), "--seed", "1", "--check", "8", "--out", str(out)]
print(f"$ fuse-index {' '.join(arguments)}\n", flush=True)
code = main(arguments)
if code:
    sys.exit(code)

result = Result.load(out)
print(f"the model goes on: {result.text}{result.checks[0].found}")
