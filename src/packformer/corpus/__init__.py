"""Turns text into token shards. Nothing here imports torch, so its processes start quickly."""

from packformer.corpus.input import Input
from packformer.corpus.left_out import LeftOut
from packformer.corpus.manifest_reading import load_manifest
from packformer.corpus.preparation import prepare
from packformer.corpus.request import Preparation
from packformer.corpus.shards import Manifest, Shard, open_shard, verify_shard

__all__ = [
    "Input",
    "LeftOut",
    "Manifest",
    "Preparation",
    "Shard",
    "load_manifest",
    "open_shard",
    "prepare",
    "verify_shard",
]
