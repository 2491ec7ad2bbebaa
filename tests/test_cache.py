"""Cached folders are whole or absent."""

import logging
import os
import threading
from pathlib import Path

import platformdirs
import pytest

from packformer.cache import cache_folder, cached_folder, fingerprint, keep_compiled


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_environment_chooses_the_place(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.delenv("PACKFORMER_CACHE")
    assert cache_folder() == Path(platformdirs.user_cache_path("packformer"))


def names(cache):
    return [path.name for path in cache.iterdir() if not path.name.startswith(".")]


def test_is_made_once(cache):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "result").write_text("done")

    first, second = cached_folder("a", make), cached_folder("a", make)
    assert first == second == cache / "a"
    assert (first / "result").read_text() == "done"
    assert len(calls) == 1
    assert names(cache) == ["a"]


def test_is_not_seen_before_it_is_complete(cache):
    def make(folder):
        (folder / "half").write_text("")
        assert not (cache / "a").exists()

    cached_folder("a", make)
    assert (cache / "a" / "half").exists()


def test_what_an_interruption_left_is_given_to_the_next(cache):
    def stop(folder):
        (folder / "half").write_text("first ")
        raise KeyboardInterrupt

    def go_on(folder):
        (folder / "whole").write_text((folder / "half").read_text() + "second")

    with pytest.raises(KeyboardInterrupt):
        cached_folder("a", stop)
    assert not (cache / "a").exists()
    assert (cached_folder("a", go_on) / "whole").read_text() == "first second"
    assert names(cache) == ["a"]


def test_others_wait_for_the_one_that_makes_it(cache, caplog):
    begun, calls = threading.Event(), []

    def make(folder):
        calls.append(folder)
        begun.set()
        while "waiting for it" not in caplog.text:
            pass

    caplog.set_level(logging.INFO)
    first = threading.Thread(target=cached_folder, args=("a", make))
    first.start()
    begun.wait()
    assert cached_folder("a", make).is_dir()
    first.join()
    assert len(calls) == 1


def test_a_complete_folder_needs_no_right_to_write(cache):
    cached_folder("a", lambda folder: None)
    cache.chmod(0o500)
    try:
        assert cached_folder("a", lambda folder: None) == cache / "a"
    finally:
        cache.chmod(0o700)


def test_a_cache_that_is_a_file_is_named(cache):
    cache.write_text("")
    with pytest.raises(OSError, match=r"cache .* cannot be written \(.*\): set PACKFORMER_CACHE"):
        cached_folder("a", lambda folder: None)


def test_fingerprint_depends_on_every_part_and_its_borders():
    names = [fingerprint(p) for p in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], [])]
    assert len(set(names)) == len(names)
    assert fingerprint(["ab", b"c"]) == fingerprint(["ab", "c"])


@pytest.fixture
def _no_home(monkeypatch, tmp_path):
    def none(*arguments, **options):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("PACKFORMER_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", none)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.usefixtures("_no_home")
def test_a_user_without_a_home_has_a_cache_of_their_own(monkeypatch, tmp_path):
    assert cache_folder() == cache_folder() == tmp_path / f"packformer-{os.getuid()}"
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.getuid", lambda: 12345)
    (tmp_path / "packformer-12345").mkdir()
    with pytest.raises(ValueError, match="belongs to another user: set PACKFORMER_CACHE"):
        cache_folder()


def test_what_torch_compiles_is_kept_unless_the_user_says_where(cache, monkeypatch):
    functions = "TORCHINDUCTOR_AUTOGRAD_CACHE_ALLOW_CUSTOM_AUTOGRAD"
    for name in ("TORCHINDUCTOR_CACHE_DIR", functions):
        monkeypatch.delenv(name, raising=False)
    keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "compiled")
    assert (cache / "compiled").is_dir()
    assert os.environ[functions] == "1"
    monkeypatch.setenv(functions, "0")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
    assert os.environ[functions] == "0"


def test_a_cache_that_cannot_be_written_is_not_torchs(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_compiled()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
