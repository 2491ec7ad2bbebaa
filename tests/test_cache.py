"""Cached folders are whole or absent."""

from pathlib import Path

import platformdirs
import pytest

from packformer.cache import cache_folder, cached_folder, fingerprint


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_environment_chooses_the_place(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.delenv("PACKFORMER_CACHE")
    assert cache_folder() == Path(platformdirs.user_cache_path("packformer"))


def test_is_made_once(cache):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "result").write_text("done")

    first, second = cached_folder("a", make), cached_folder("a", make)
    assert first == second == cache / "a"
    assert (first / "result").read_text() == "done"
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == ["a"]


def test_is_not_seen_before_it_is_complete(cache):
    def make(folder):
        (folder / "half").write_text("")
        assert not (cache / "a").exists()

    cached_folder("a", make)
    assert (cache / "a" / "half").exists()


def test_failure_leaves_nothing_behind(cache):
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        cached_folder("a", fail)
    assert list(cache.iterdir()) == []


def test_a_faster_process_wins(cache):
    def make(folder):
        (folder / "result").write_text("mine")
        (cache / "a").mkdir()
        (cache / "a" / "result").write_text("theirs")

    assert (cached_folder("a", make) / "result").read_text() == "theirs"
    assert [path.name for path in cache.iterdir()] == ["a"]


def test_fingerprint_depends_on_every_part_and_its_borders():
    names = [fingerprint(p) for p in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], [])]
    assert len(set(names)) == len(names)
    assert fingerprint(["ab", b"c"]) == fingerprint(["ab", "c"])
