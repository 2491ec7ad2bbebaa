"""Corpora of random words, for the tests of token shards."""

import json
import random
from itertools import islice

import pytest

from packformer.corpus import Input, Preparation, load_manifest, prepare
from packformer.data import PackingSettings
from packformer.data.rows import PackedRows

PACKING = PackingSettings(256, 64, lookahead=16)
WORDS = ["the", "of", "packed", "row", "document", "token", "model", "loss"]


def make(tmp_path, name, seed=0, count=400, tokenizer=None, parts=6000):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(count)]
    file = tmp_path / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("packformer.corpus.preparation._MIB", parts)
        prepare(
            Preparation(
                Input((str(file),)),
                tmp_path / name,
                vocab_size=300,
                tokenizer=tokenizer,
                validation_fraction=0.2,
                shard_mib=1,
            )
        )
    return tmp_path / name


def serve(server, folder):
    for file in folder.iterdir():
        server.files[f"/{folder.name}/{file.name}"] = file.read_bytes()
    return f"{server.url}/{folder.name}"


def manifest_of(folder):
    return load_manifest((folder / "manifest.json").read_text(), "manifest.json")


def rows(source, count=None, **options):
    packed = PackedRows(source, PACKING, max_documents=64, seed=1, **options)
    return [batch.tokens.tolist() for batch in islice(packed, count)]
