"""Files behind URLs: fetched once, checked, bounded, and never waited for without end."""

import errno
import hashlib
import os

import pytest

from packformer.data import fetch
from packformer.data.fetch import ShardCache, is_url, read_url


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_what_is_a_url():
    assert is_url("https://a/b")
    assert is_url("s3://bucket/corpus")
    assert not is_url("/data/corpus")
    assert not is_url("C:\\data")


def test_a_shard_is_fetched_once(server):
    data = os.urandom(9 * 2**20)
    server.files["/a"] = data
    cache = ShardCache(2**30)
    for _ in range(3):
        file = cache.get(f"{server.url}/a", sha(data), len(data))
        assert file.read_bytes() == data
    requests = len(server.requests)
    ShardCache(2**30).get(f"{server.url}/a", sha(data), len(data))
    assert len(server.requests) == requests


def test_files_of_any_file_system_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_url(f"file://{tmp_path}/a", 2**24) == b"abc"


def test_what_is_not_as_its_hash_says_is_refused_and_not_kept(server, tmp_path):
    server.files["/a"] = b"damaged"
    with pytest.raises(ValueError, match=r"/a: its SHA-256 is [0-9a-f]{12}..., its manifest says"):
        ShardCache(2**30).get(f"{server.url}/a", sha(b"right"), 7)
    assert not list((tmp_path / "cache").rglob("*.tokens"))


def test_a_missing_file_is_named(server):
    with pytest.raises(ValueError, match=r"/b cannot be read, tried 3 times: "):
        read_url(f"{server.url}/b", 2**24)


def test_a_connection_that_breaks_off_is_taken_up_again(server):
    data = os.urandom(10 * 2**20)
    server.files["/a"] = data
    server.cut["/a"] = 5 * 2**20
    assert read_url(f"{server.url}/a", 2**24) == data


@pytest.mark.parametrize("cut", [None, 7 * 2**20])
def test_servers_that_know_no_ranges_are_read(server, cut):
    data = os.urandom(12 * 2**20)
    server.files["/a"] = data
    server.knows_ranges = False
    if cut:
        server.cut["/a"] = cut
    assert read_url(f"{server.url}/a", 2**24) == data


def test_a_url_that_stops_answering_is_given_up(server, monkeypatch):
    monkeypatch.setattr(fetch, "_STALL_SECONDS", 0.3)
    server.files["/a"] = b"abc"
    server.silent.add("/a")
    with pytest.raises(
        ValueError, match=r"/a cannot be read, tried 3 times: TimeoutError: nothing came for"
    ):
        read_url(f"{server.url}/a", 2**24)


def test_the_longest_unused_make_room(server, tmp_path):
    cache = ShardCache(250)
    files = {}
    for number in range(5):
        data = bytes([number]) * 100
        server.files[f"/{number}"] = data
        files[number] = cache.get(f"{server.url}/{number}", sha(data), 100)
        os.utime(files[number], (number, number))
        if number == 2:
            os.utime(files[1], (99, 99))  # used again
    kept = {number for number, file in files.items() if file.exists()}
    assert 4 in kept
    assert len(kept) == 2
    assert 1 in kept


def test_a_full_disk_is_told_with_the_room_that_is_needed(tmp_path, monkeypatch):
    data = bytes(3 * 2**20)
    (tmp_path / "a").write_bytes(data)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetch, "_bounded", full)  # where the stream is written to
    with pytest.raises(OSError, match=r"cannot write .*\.tokens \(No space.*3\.0 MiB are needed"):
        ShardCache(2**30).get(f"file://{tmp_path}/a", sha(data), len(data))
    assert not list((tmp_path / "cache").rglob("*.unfinished"))
