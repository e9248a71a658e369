"""Models of several libraries behind one interface, and their embedding tables alone."""

from fuse_index.models.base import Model
from fuse_index.models.batch import Batch
from fuse_index.models.embeddings import Embeddings, load_embeddings
from fuse_index.models.frame import Frame
from fuse_index.models.kinds import ModelKind, ModelOutput
from fuse_index.models.load import load_model
from fuse_index.models.naming import ModelName, ModelSource, parse_model_name
from fuse_index.models.pretrained import Quantization
from fuse_index.models.wrap import wrap_model

__all__ = [
    "Batch",
    "Embeddings",
    "Frame",
    "Model",
    "ModelKind",
    "ModelName",
    "ModelOutput",
    "ModelSource",
    "Quantization",
    "load_embeddings",
    "load_model",
    "parse_model_name",
    "wrap_model",
]
