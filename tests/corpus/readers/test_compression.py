"""Compressed files: whole or an error, in bounded memory."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import tracemalloc
import zipfile

import pytest
import zstandard

from packformer.corpus.documents import text_of
from packformer.corpus.input import Input
from packformer.corpus.readers.compression import open_content

TEXT = ("Größe und 東京, some words of a text\n" * 9000).encode()
COMPRESS = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def content(file):
    with open_content(file, str(file)) as opened:
        return opened.stream.read()


@pytest.mark.parametrize("suffix", [*COMPRESS, ".GZ", ".Zst"])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_all_streams_of_a_file_are_read(tmp_path, suffix, pieces):
    file = tmp_path / f"a.txt{suffix}"
    size = -(-len(TEXT) // pieces)
    parts = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    file.write_bytes(b"".join(map(COMPRESS[suffix.lower()], parts)))
    assert content(file) == TEXT
    (raw,) = Input((str(file),)).read(str(file))
    assert text_of(raw, "text") == TEXT.decode()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path, suffix):
    whole = COMPRESS[suffix](TEXT)
    whole += COMPRESS[suffix](b"the end")
    file = tmp_path / f"a.txt{suffix}"
    first = len(COMPRESS[suffix](TEXT))
    for cut in [1, 3, 5, 9, first - 1, first + 1, first + 3, first + 6, len(whole) - 1]:
        file.write_bytes(whole[:cut])
        with pytest.raises(
            ValueError, match=rf"a.txt{suffix} is damaged or cut short \(.+\): replace it$"
        ):
            content(file)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_what_follows_and_is_no_stream_is_refused(tmp_path, suffix):
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(COMPRESS[suffix](TEXT) + b"more text that is not compressed")
    with pytest.raises(
        ValueError, match=rf"a.txt{suffix} is damaged or cut short \(.+\): replace it$"
    ):
        content(file)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_an_empty_file_is_an_empty_document(tmp_path, suffix):
    for file in (tmp_path / f"a.txt{suffix}", tmp_path / f"b.jsonl{suffix}"):
        file.write_bytes(b"")
        (raw,) = Input((str(file),)).read(str(file))
        assert text_of(raw, "text") == ""


@pytest.mark.parametrize("suffix", COMPRESS)
def test_reading_takes_little_memory_whatever_a_file_holds(tmp_path, suffix):
    file = tmp_path / f"a.txt{suffix}"
    size = 200 * 2**20
    zeros = bytes(2**20)
    parts = io.BytesIO()
    if suffix == ".zst":
        parts.write(zstandard.ZstdCompressor(level=19).compress(bytes(size)))
    else:
        parts.write(COMPRESS[suffix](zeros) * (size // len(zeros)))
    file.write_bytes(parts.getvalue())
    del parts
    found = 0
    tracemalloc.start()
    with open_content(file, "a") as opened:
        while part := opened.stream.read(2**20):
            found += len(part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == size
    assert peak < 32 * 2**20  # of which .xz takes 8 for its window


@pytest.mark.parametrize("window_log", [10, 20, 27, 28, 30, 31])
def test_zstandard_files_of_any_window_are_read(tmp_path, caplog, window_log):
    parameters = zstandard.ZstdCompressionParameters(
        window_log=window_log, chain_log=10, hash_log=10, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    file = tmp_path / "a.txt.zst"
    file.write_bytes(compressor.compress(TEXT) + compressor.flush())
    assert zstandard.get_frame_parameters(file.read_bytes()).window_size == 2**window_log
    assert content(file) == TEXT
    Input((str(file),)).announce()
    told = f"a.txt.zst: takes up to {2 ** (window_log - 20):,.0f} MiB of memory to read"
    assert (told in caplog.text) == (window_log > 27)


@pytest.mark.parametrize("seed", range(30))
def test_zstandard_blocks_of_any_kind_are_read(tmp_path, seed):
    rng = random.Random(seed)
    size = rng.choice([0, 1, 300, 2**17 - 1, 2**17, 2**17 + 1, 500_000])
    text = rng.choice([bytes(size), rng.randbytes(size), TEXT[:size]])
    options = rng.choice([{}, {"write_checksum": True}, {"write_content_size": False}])
    compressor = zstandard.ZstdCompressor(level=rng.choice([1, 3, 12]), **options)
    stream = compressor.compressobj()
    cut = rng.randint(0, size)
    flushed = stream.compress(text[:cut]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    flushed += stream.compress(text[cut:]) + stream.flush()
    skipped = (0x184D2A50 + rng.randrange(16)).to_bytes(4, "little") + b"\x03\0\0\0abc"
    file = tmp_path / "a.txt.zst"
    file.write_bytes(skipped + compressor.compress(text) + skipped + flushed + skipped)
    assert content(file) == text + text


def gzipped(data):
    return gzip.compress(data, mtime=0)


def archive(kind):
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as made:
            made.writestr(
                zipfile.ZipInfo("a.txt"), "text"
            )  # of 1980: no name of a test has the time
    else:
        with tarfile.open(fileobj=stream, mode="w") as made:
            info = tarfile.TarInfo("a.txt")
            info.size = 4
            made.addfile(info, io.BytesIO(b"text"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.tar", archive("tar"), r"a.tar is an archive \(.tar\): unpack it"),
        (
            "a.tar.gz",
            gzipped(archive("tar")),
            r"a.tar.gz is an archive \(.tar\): unpack it",
        ),
        (
            "a.tgz",
            gzipped(archive("tar")),
            r"a.tgz is an archive \(.tgz\): unpack it",
        ),
        ("a.zip", archive("zip"), r"a.zip is an archive \(.zip\): unpack it"),
        ("a.txt", archive("tar"), r"a.txt is a tar archive: unpack it"),
        ("a.txt.zst", zstandard.compress(archive("tar")), r"a.txt.zst is a tar archive: unpack it"),
        ("a.txt.lz4", b"x", r"lz4 is compressed as .lz4, which is not read: unpack it"),
    ],
)
def test_archives_and_what_cannot_be_decompressed_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(Input((str(tmp_path),)).read(str(tmp_path / name)))
