"""``packformer bench``."""

import re

from packformer.cli import main


def test_bench_attention_runs(tmp_path, capsys):
    folder = tmp_path / "out"
    main(
        f"bench attention --device cpu --heads 2 --head-dim 8 --tokens 32 --documents 10 "
        f"--variants plain --output {folder}".split()
    )
    assert (folder / "attention.csv").is_file()
    assert str(folder) in capsys.readouterr().out


def test_bench_loader_tells_speed_and_fill(capsys):
    sizes = ["--rows", "8", "--row-length", "256", "--max-document-length", "128"]
    main(["bench", "loader", *sizes, "--workers", "0", "1"])
    out = capsys.readouterr().out
    assert "8 rows of 256 tokens, documents of at most 128" in out
    for words in (r"packer alone +[\d,]+ tokens/s +[\d.]+% full", r"0 workers +[\d,]+ tokens/s"):
        assert re.search(words, out)
    assert "loader, 1 worker " in out
