"""Names of corpora."""

import pytest

from packformer.data.corpus_names import corpus_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/news", "books/"], ["news", "books"]),
        (["/x/a/train", "/y/b/train", "/z/wiki"], ["a/train", "b/train", "wiki"]),
        (["/x/a/train", "/y/a/train"], ["x/a/train", "y/a/train"]),
        (["a", "/x/y/a", "s3://bucket/y/a"], None),
        (["s3://bucket/v1/news/", "https://host/v2/news"], ["v1/news", "v2/news"]),
        (["/x/a", "/x/a", "/x/a (2)"], ["a", "a (2)", "a (2) (2)"]),
        (["/x/a", "/x/../x/a/"], ["a", "a (2)"]),
        (["/a", "/x/a"], ["//a", "x/a"]),
        (["/"], ["/"]),
    ],
)
def test_names_are_the_shortest_that_differ(paths, names):
    found = corpus_names(paths)
    assert len(set(found)) == len(paths)
    assert names is None or found == names


def test_a_corpus_here_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "news").mkdir()
    monkeypatch.chdir(tmp_path / "news")
    assert corpus_names(["."]) == ["news"]
