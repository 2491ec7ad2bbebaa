"""What a tokenizer loses is counted; what it only writes differently is not."""

import json
import random

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from packformer.corpus import Input, Preparation, load_manifest, prepare
from packformer.corpus.losses import characters, token_characters, unknown_token
from packformer.corpus.tokenizer import train_bpe
from packformer.data import TokenShards

LATIN = "The quick brown fox, naïve café: jumps over 12 lazy dogs!\n"
CHINESE = "你好，世界。今天天气很好。\n"


def byte_level(**options):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**options)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False, vocab_size=300)
    tokenizer.train_from_iterator([LATIN], trainer)
    return tokenizer


def words(model, trainer, **parts):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([LATIN, LATIN.lower()], trainer)
    return tokenizer


def piece(**options):
    """Words as pieces after the mark of a space, and bytes for all else."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        vocab_size=330,
    )
    tokenizer.train_from_iterator([LATIN], trainer)
    fresh = json.loads(tokenizer.to_str())
    fresh["added_tokens"] = [token for token in fresh["added_tokens"] if token["id"] == 0]
    return Tokenizer.from_str(json.dumps(fresh))


KINDS = {
    "byte_level": lambda: byte_level(add_prefix_space=False),
    "byte_level_prefix": lambda: byte_level(add_prefix_space=True),
    "ours": lambda: train_bpe([LATIN], 300),
    "byte_fallback": piece,
    "wordpiece": lambda: words(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(special_tokens=["[UNK]"], show_progress=False),
        normalizer=normalizers.BertNormalizer(lowercase=False),
    ),
    "uncased": lambda: words(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(special_tokens=["[UNK]"], show_progress=False),
        normalizer=normalizers.BertNormalizer(lowercase=True),
    ),
    "suffix": lambda: words(
        models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"),
        trainers.BpeTrainer(
            special_tokens=["[UNK]"], end_of_word_suffix="</w>", show_progress=False
        ),
    ),
    "unigram": lambda: words(
        models.Unigram(),
        trainers.UnigramTrainer(unk_token="<unk>", special_tokens=["<unk>"], show_progress=False),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    ),
    "no_unknown": lambda: words(models.BPE(), trainers.BpeTrainer(show_progress=False)),
}


def corpus(folder, tokenizer, texts):
    tokenizer.save(str(folder / "own.json"))
    file = folder / "a.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = Preparation(Input((str(file),)), folder / "c", tokenizer=folder / "own.json")
    return prepare(made)


@pytest.mark.parametrize("kind", KINDS)
def test_known_text_is_not_lost(tmp_path, kind):
    manifest = corpus(tmp_path, KINDS[kind](), [LATIN, f"{LATIN} {LATIN}", "over the dogs"])
    assert [remark for remark in manifest.remarks if "held out" not in remark] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_spelled_is_counted(tmp_path, kind):
    text = "over 你好 dogs"
    whole = kind in ("byte_level", "byte_level_prefix", "ours", "byte_fallback")
    manifest = corpus(tmp_path, KINDS[kind](), [text, LATIN])
    lost = [remark for remark in manifest.remarks if "no token spells" in remark]
    assert len(lost) == (not whole)
    if lost:
        assert f"no token spells 2 of {len(text + LATIN)} characters (2.9 %)" in lost[0]
        assert ("of the tokens are" in lost[0]) == (kind != "no_unknown")


def test_texts_without_a_token_are_left_out_and_counted(tmp_path, caplog):
    texts = [CHINESE * 3, LATIN, CHINESE, f"{LATIN} {LATIN}"]
    manifest = corpus(tmp_path, KINDS["no_unknown"](), texts)
    shards = (*manifest.train, *manifest.validation)
    assert sum(shard.documents for shard in shards) == 2
    saved = load_manifest((tmp_path / "c" / "manifest.json").read_text(), "manifest.json")
    TokenShards(str(tmp_path / "c")).prepare()
    remark = "the tokenizer loses text: no token spells 52 of 231 characters (22.5 %)"
    assert saved.remarks == [remark]
    assert remark in caplog.text
    assert saved.left_out.no_token == 2


def test_a_text_all_of_which_is_lost_is_no_corpus(tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no document, left out: 1 without a token in this tok"
    ):
        corpus(tmp_path, KINDS["no_unknown"](), [CHINESE])


NO_UNKNOWN = {
    "unigram": models.Unigram([("a", -1.0), ("▁", -1.0)], None, False),
    "word_level": models.WordLevel({"a": 0}, unk_token="[UNK]"),
    "wordpiece": models.WordPiece({"a": 0, "##b": 1}, unk_token="[UNK]"),
    "bpe": models.BPE({"a": 0, "b": 1}, [], unk_token="[UNK]"),
}


@pytest.mark.parametrize("kind", NO_UNKNOWN)
def test_a_vocabulary_that_cannot_go_on_is_named(tmp_path, kind):
    tokenizer = Tokenizer(NO_UNKNOWN[kind])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match=r"tokenizer cannot encode a text, .*: give one whose"):
        corpus(tmp_path, tokenizer, ["a", "a x"])


def test_a_normalizer_that_removes_characters_loses_them(tmp_path):
    tokenizer = KINDS["byte_level"]()
    tokenizer.normalizer = normalizers.Replace("o", "")
    (remark,) = corpus(tmp_path, tokenizer, [LATIN, "ooo dogs"]).remarks
    assert f"no token spells {LATIN.count('o') + 4} of {len(LATIN) + 8} characters" in remark


def test_characters_are_those_that_tokens_spell():
    rng = random.Random(0)
    tokenizer = train_bpe([LATIN, CHINESE], 400)
    lengths = token_characters(tokenizer)
    for _ in range(50):
        text = "".join(rng.choices(LATIN + CHINESE + "\t \U0001f600é́ѣ", k=40))
        ids = tokenizer.encode(text).ids
        assert lengths[ids].sum() == len("".join(text.split()))


def test_composed_and_decomposed_text_count_alike():
    assert characters("cafe\u0301 \u00a0\n") == characters("café") == 4


@pytest.mark.parametrize(("kind", "name"), [("unigram", "<unk>"), ("suffix", "[UNK]")])
def test_the_unknown_token_is_known(kind, name):
    assert unknown_token(KINDS[kind]()) == name
    assert unknown_token(KINDS["ours"]()) is None


def test_settings_for_batches_and_marks_spelled_out_change_no_id(tmp_path):
    text = f"{LATIN} <|endoftext|> {LATIN}"
    plain = KINDS["byte_level"]()
    plain.add_special_tokens(["<|endoftext|>"])
    wanted = corpus(tmp_path, plain, [text, LATIN])
    assert wanted.remarks == []
    other = tmp_path / "other"
    other.mkdir()
    plain.enable_truncation(5)
    plain.enable_padding()
    end = ("<|endoftext|>", plain.token_to_id("<|endoftext|>"))
    plain.post_processor = processors.TemplateProcessing("$A <|endoftext|>", None, [end])
    model = plain.model
    model.dropout = 0.9
    plain.model = model
    found = corpus(other, plain, [text, LATIN])
    sums = [[shard.sha256 for shard in (*m.train, *m.validation)] for m in (wanted, found)]
    assert sums[0] == sums[1]
