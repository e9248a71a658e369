"""A folder with the index of an old, sharded save beside a newer single file.

The index is an artifact of an earlier save, and whoever follows it reads shards that are gone or
of another model: https://github.com/Neph0s/CoSER/issues/3. A bundle is built from the embedding
table alone, and must be of the weights that the loaded model has.
"""

from __future__ import annotations

import torch

from fuse_index import load_model
from fuse_index.models.embeddings import load_embeddings
from tests.models.factory import build_model, tokenizer_of


def test_an_old_index_beside_a_newer_single_file(tmp_path):
    model = build_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    old = {path.name: path.read_bytes() for path in tmp_path.glob("model*")}
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2)
    model.save_pretrained(tmp_path)
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    tokenizer_of("llama").save_pretrained(tmp_path)
    alone, whole = load_embeddings(str(tmp_path)), load_model(str(tmp_path), device="cpu")
    assert alone.identity == whole.identity()
    assert torch.equal(alone.table, whole.table())
