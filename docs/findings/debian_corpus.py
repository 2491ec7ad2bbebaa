"""Makes the corpus of docs/findings.md: documentation and dictionaries of Debian 12, as JSON lines.

python docs/findings/debian_corpus.py FOLDER    # needs Debian 12, and a network

Every page of a manual and every entry of a dictionary is a document. Pages are left out that are
shorter than 400 characters, not English, or copies of an earlier one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

PACKAGES = """
    anarchism apache2-doc apt-doc aptitude-doc-en asymptote-doc bash-doc bind9-doc cmake-doc
    debian-faq debian-policy debian-reference-en developers-reference dict-foldoc dict-gcide
    dict-jargon dict-vera dict-wn erlang-doc gap-doc git-doc golang-1.19-doc harden-doc
    installation-guide-amd64 libboost1.74-doc libreoffice-help-en-us linux-doc-6.1
    llvm-14-doc maxima-doc nodejs-doc octave-doc perl-doc postfix-doc postgresql-doc-15
    python-django-doc python3.11-doc sqlite3-doc vim-doc zsh-doc
"""

SHORTEST = 400  # characters of a page
SKIPPED = {"script", "style", "nav", "head", "header", "footer", "svg", "select", "button"}
BLOCKS = {"p", "div", "br", "li", "tr", "dt", "dd", "pre", "table", "section", "blockquote", "ul"}
BLOCKS |= {"ol", "dl", "h1", "h2", "h3", "h4", "h5", "h6"}


class Page(HTMLParser):
    """The text of a page of HTML, without its navigation."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skipped: list[str] = []
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SKIPPED:
            self._skipped.append(tag)
        self._preformatted += tag == "pre"
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipped:
            del self._skipped[self._skipped.index(tag) :]
        self._preformatted -= tag == "pre" and self._preformatted > 0
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.parts.append(data if self._preformatted else re.sub(r"\s+", " ", data))


def text_of_html(html: str) -> str:
    page = Page()
    page.feed(html)
    lines = [line.rstrip() for line in "".join(page.parts).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def entries(index: Path) -> Iterator[str]:
    """The entries of a dictionary in the format of dictd."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

    def number(word: str) -> int:
        value = 0
        for letter in word:
            value = value * 64 + digits.index(letter)
        return value

    whole = gzip.decompress(index.with_suffix(".dict.dz").read_bytes())
    places = {tuple(map(number, line.split("\t")[1:3])) for line in index.read_text().splitlines()}
    for start, length in sorted(places):
        yield whole[start : start + length].decode(errors="replace").strip()


def documents(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        name = path.name.removesuffix(".gz")
        if name.endswith(".index") and path.with_suffix(".dict.dz").exists():
            yield from entries(path)
        elif name.endswith((".html", ".htm", ".txt", ".rst", ".pod")):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            text = data.decode(errors="replace")
            text = text_of_html(text) if "htm" in name.rpartition(".")[2] else text
            if len(text) >= SHORTEST:
                yield text


def is_english(text: str) -> bool:
    return sum(map(str.isascii, text)) >= 0.97 * len(text)


def main(folder: Path) -> None:
    packages = folder / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    unpacked = folder / "unpacked"
    unpacked.mkdir(exist_ok=True)
    seen: set[bytes] = set()
    size = 0
    with (folder / "debian.jsonl").open("w") as out:
        for package in PACKAGES.split():
            root = unpacked / package
            if not root.exists():
                if not list(packages.glob(f"{package}_*.deb")):
                    subprocess.run(
                        ["apt-get", "download", "-qq", package], cwd=packages, check=True
                    )
                (file,) = packages.glob(f"{package}_*.deb")
                subprocess.run(["dpkg-deb", "-x", file, root], check=True)
            before = size
            for text in documents(root):
                digest = hashlib.sha256(text.encode(errors="replace")).digest()
                if digest not in seen and is_english(text):
                    seen.add(digest)
                    size += out.write(json.dumps({"text": text, "from": root.name}) + "\n")
            print(f"{(size - before) / 1e6:8.1f} MB  {root.name}", flush=True)
    print(f"{size / 1e6:8.1f} MB  {len(seen):,} documents")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
