"""Text to prepare, and a server of files for the tests that fetch."""

import http.server
import threading
import time

import pytest
from tokenizers import Tokenizer

from packformer.data import TextFiles
from packformer.data.source import whole_document

VOCAB = 270


class Server:
    """Serves bytes by path; can break off, be silent, or refuse."""

    def __init__(self):
        self.files, self.requests, self.cut, self.silent = {}, [], {}, set()
        self.delay, self.knows_ranges = 0.0, True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                if body:
                    outer.requests.append(self.path)
                time.sleep(outer.delay)
                while self.path in outer.silent:
                    time.sleep(0.05)
                data = outer.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                start, end, status = 0, len(data), 200
                if (wanted := self.headers.get("Range")) and outer.knows_ranges:
                    first, last = wanted.removeprefix("bytes=").split("-")
                    start, end, status = int(first), min(end, int(last or end) + 1), 206
                self.send_response(status)
                if outer.knows_ranges:
                    self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(end - start))
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
                self.end_headers()
                if body:
                    stop = outer.cut.pop(self.path, end)
                    self.wfile.write(data[start:stop])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.silent.clear()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path, cache):
    """An empty folder for text, beside the cache."""
    place = tmp_path / "texts"
    place.mkdir()
    return place


def write(folder, **texts):
    for name, content in texts.items():
        (folder / f"{name}.txt").write_bytes(content.encode())


def prepare(path, **options):
    return TextFiles(str(path), **{"vocab_size": VOCAB, **options}).prepare()


def decoded(source, splits):
    tokenizer = Tokenizer.from_file(str(splits.tokenizer))
    return [tokenizer.decode(whole_document(source, n)[0]) for n in range(source.num_documents)]


def all_texts(splits):
    return sorted(decoded(splits.train, splits) + decoded(splits.validation, splits))
