"""The files of a corpus: the same bytes on every machine, and damage that is named."""

import numpy as np
import pytest

from packformer.corpus import load_manifest, prepare, shards, verify_shard
from packformer.corpus.shards import ShardWriter, check_tokenizer
from packformer.corpus.tokenizer import train_bpe

from .conftest import preparation


class TestDamage:
    @pytest.fixture
    def folder(self, corpus, tmp_path):
        self.manifest = prepare(preparation(corpus[0], tmp_path / "c"))
        return tmp_path / "c"

    def verify(self, folder, **changes):
        shard = self.manifest.train[0]
        verify_shard(folder / shard.file, shard, "uint16", changes.get("vocab_size", 300))

    def test_a_shard_cut_short(self, folder):
        file = folder / "train-00000.tokens"
        data = file.read_bytes()
        file.write_bytes(data[:-5])
        with pytest.raises(ValueError, match=rf"ends at byte {len(data) - 5:,}, its manifest"):
            self.verify(folder)

    def test_a_flipped_byte(self, folder):
        file = folder / "train-00000.tokens"
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"train-00000.tokens: its SHA-256 is"):
            self.verify(folder)

    def test_damaged_ends(self, folder):
        file = folder / "train-00000.tokens"
        data = bytearray(file.read_bytes())
        data[-16:-8] = (2**40).to_bytes(8, "little")
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"its document ends do not ascend"):
            self.verify(folder)

    def test_a_missing_shard(self, folder):
        (folder / "train-00000.tokens").unlink()
        with pytest.raises(ValueError, match=r"train-00000.tokens is missing: its manifest"):
            self.verify(folder)

    def test_ids_beyond_the_vocabulary(self, folder):
        with pytest.raises(ValueError, match=r"byte [\d,]+: token id \d+ lies outside the voc"):
            self.verify(folder, vocab_size=200)

    def test_another_tokenizer(self, folder):
        train_bpe(["x y z"], 270).save(str(folder / "tokenizer.json"))
        with pytest.raises(ValueError, match=r"is not the tokenizer its shards were made with"):
            check_tokenizer(self.manifest, folder / "tokenizer.json")

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "train": 3}'])
    def test_no_manifest(self, text):
        with pytest.raises(ValueError, match=r"m.json is no manifest .*: copy it again, or"):
            load_manifest(text, "m.json")


def test_the_shards_do_not_depend_on_the_machine(tmp_path):
    writer = ShardWriter(tmp_path / "a.tokens", "uint16")
    writer.add(np.array([1, 2, 3, 258], dtype=np.uint16), np.array([3]), 9, 8)
    writer.add(np.array([5], dtype=np.uint16), np.array([1]), 1, 1)
    shard = writer.finish()
    ids = bytes([1, 0, 2, 0, 3, 0, 2, 1, 5, 0]) + bytes(6)
    ends = (3).to_bytes(8, "little") + (5).to_bytes(8, "little")
    assert (tmp_path / "a.tokens").read_bytes() == ids + ends
    assert shard == shards.Shard("a.tokens", shards.hash_file(tmp_path / "a.tokens"), 2, 5, 10, 9)
