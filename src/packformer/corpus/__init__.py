"""Text in, token shards out; knows nothing of torch, so that its processes start at once."""

from packformer.corpus.documents import Input
from packformer.corpus.preparation import Preparation, prepare
from packformer.corpus.shards import Manifest, Shard, load_manifest, open_shard, verify_shard

__all__ = [
    "Input",
    "Manifest",
    "Preparation",
    "Shard",
    "load_manifest",
    "open_shard",
    "prepare",
    "verify_shard",
]
