"""The page in a real browser: nothing sticks out, on a phone, a desk and paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium")
WIDTHS = (320, 390, 768, 1200)
# Frames have the widths that a headless window cannot have.
_PROBE = """<!doctype html><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => {{
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument.documentElement;
    // Column heads are hidden on a phone, and lines of charts are cut where their frames end.
    const wide = [...page.querySelectorAll("body :not(thead *, svg :not(text))")].filter(
      (one) => one.getBoundingClientRect().right > page.clientWidth + 1);
    found.textContent += `${{frame.width}}:${{page.scrollWidth}}:${{wide.length}} `;
  }}
}});
</script></body>"""

pytestmark = [
    pytest.mark.platform,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium"),
]


def _chromium(profile: Path, *arguments: str) -> str:
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--hide-scrollbars", "--allow-file-access-from-files", f"--user-data-dir={profile}"),
    ]
    done = subprocess.run(
        [str(BROWSER), *options, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_sticks_out(whole: Path, tmp_path: Path) -> None:
    frame = f'<iframe width="{{}}" height="600" src="{whole.as_uri()}"></iframe>'
    frames = "".join(map(frame.format, WIDTHS))
    probe = tmp_path / "probe.html"
    probe.write_text(_PROBE.format(frames=frames), encoding="utf-8")
    shown = _chromium(tmp_path / "profile", "--dump-dom", probe.as_uri())
    found = shown.partition('<pre id="found">')[2].partition("</pre>")[0].split()
    assert found == [f"{width}:{width}:0" for width in WIDTHS]


def test_on_paper_nothing_sticks_out_and_all_of_a_table_can_be_read(
    whole: Path, tmp_path: Path
) -> None:
    """As a frame as wide as A4 and US Letter between their margins, with the styles of print."""
    text = whole.read_text(encoding="utf-8")
    assert text.count("@media print") == 1
    paper = tmp_path / "paper.html"
    text = text.replace("@media print", "@media all").replace("@media screen", "@media not all")
    paper.write_text(text, encoding="utf-8")
    widths = [int((width - 2 * 13) / 25.4 * 96) for width in (210, 216)]  # mm to CSS pixels
    frame = f'<iframe width="{{}}" height="600" src="{paper.as_uri()}"></iframe>'
    script = """
      const letters = [...page.querySelectorAll("th, td, td small")].map(
        (one) => parseFloat(getComputedStyle(one).fontSize));
      found.textContent += `${Math.min(...letters) * 0.75 >= 6.7} `;
    }
  });"""
    probe = tmp_path / "probe.html"
    whole_probe = _PROBE.format(frames="".join(map(frame.format, widths)))
    probe.write_text(re.sub(r"\n  }\n}\);", lambda _: script, whole_probe), encoding="utf-8")
    shown = _chromium(tmp_path / "profile", "--dump-dom", probe.as_uri())
    found = shown.partition('<pre id="found">')[2].partition("</pre>")[0].split()
    assert found == [word for width in widths for word in (f"{width}:{width}:0", "true")]


def test_it_is_drawn_and_printed(whole: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    picture, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    _chromium(
        tmp_path / "profile", "--window-size=800,3000", f"--screenshot={picture}", whole.as_uri()
    )
    pixels = imread(picture)
    assert pixels.shape[:2] == (3000, 800)
    assert len({tuple(colour) for colour in pixels[::7, ::7, :3].reshape(-1, 3).tolist()}) > 20
    printed = ("--no-pdf-header-footer", f"--print-to-pdf={paper}")
    _chromium(tmp_path / "profile", *printed, whole.as_uri())
    assert paper.read_bytes()[:5] == b"%PDF-"
    assert 2 <= paper.read_bytes().count(b"/Type /Page\n") <= 5
