import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from deid_diffusion.evaluation.aggregate import BACKGROUND_PSNR, DETECTED
from deid_diffusion.evaluation.html_report import write_page
from deid_diffusion.evaluation.privacy import RANK_1
from deid_diffusion.evaluation.results import EvalReport, GroupResult, JudgeResult, Metric, Problem
from deid_diffusion.evaluation.summary import headline, markdown_table


def _report(method: str, rank1: float, found: float) -> EvalReport:
    ranks = tuple(float(k) for k in range(1, 21))
    curve = (ranks, tuple(min(1.0, rank1 + 0.04 * k) for k in ranks))
    det = ((0.001, 0.01, 0.1, 1.0), (1.0, 0.9, 0.5, 0.0))
    bins = (0.0, 0.1, 0.2, 0.3), (0.1, 0.5, 0.3, 0.1)
    judge = JudgeResult(
        judge="net",
        weight_hash="0" * 64,
        people=50,
        metrics=(
            Metric(RANK_1, rank1, max(rank1 - 0.1, 0), min(rank1 + 0.1, 1), 50, on_originals=1.0, chance=0.02),
            Metric.missing("TAR at FAR 0.1 %", "needs 1000 impostor pairs, got 12"),
        ),
        cmc=curve,
        cmc_originals=(ranks, (1.0,) * 20),
        det=det,
        det_originals=(det[0], (0.0,) * 4),
        genuine=bins,
        impostor=bins,
    )
    return EvalReport(
        method=method,
        test="other photos",
        pictures=50,
        faces=50,
        people=50,
        judges=(judge,),
        recogniser_free=(Metric("unchanged faces", 0.04, 0.0, 0.1, 50),),
        utility=(Metric(DETECTED, found, max(found - 0.05, 0), min(found + 0.05, 1), 50),),
        quality=(Metric(BACKGROUND_PSNR, float("inf"), n=50, unit="dB"),),
        groups=(GroupResult("gender", "female", 25, (Metric(f"{RANK_1}, net", rank1, n=25),)),),
        problems=(Problem("output not readable", "a<b>.png", "cut & short"),),
        problem_counts=(("output not readable", 1),),
        notes=("A note.",),
        setup=(("seed", "0"),),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    reports = (_report("inpaint <1>", 0.02, 0.98), _report("blur", 0.3, 0.1))
    write_page(path, reports, [[np.full((8, 8, 3), 90, np.uint8)], []])
    return path


def test_the_page_needs_nothing_from_outside(page):
    text = page.read_text()
    sources = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')>\s]{0,12})', text)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in text


def test_names_of_files_and_methods_are_text_not_markup(page):
    text = page.read_text()
    assert "a&lt;b&gt;.png" in text
    assert "inpaint &lt;1&gt;" in text
    assert "<b>.png" not in text


def test_the_page_says_what_was_not_measured(page):
    assert "not measured: needs 1000 impostor pairs, got 12" in page.read_text()


def test_without_matplotlib_the_page_says_so(tmp_path, monkeypatch):
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    write_page(tmp_path / "report.html", (_report("blur", 0.3, 0.1),), [[]])
    assert "matplotlib is not installed" in (tmp_path / "report.html").read_text()


def test_a_browser_opens_the_page(page, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [browser, *quiet.split(), "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3000"]
    command += [f"--screenshot={tmp_path / 'page.png'}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    from PIL import Image

    shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert shown.shape == (3000, 1200, 3)
    # Words and plots all the way down, and the plots' blue somewhere.
    assert all((part < 128).any() for part in np.array_split(shown.min(axis=2), 4))
    assert (np.abs(shown.astype(int) - (0, 0x72, 0xB2)).max(axis=2) < 12).sum() > 300


def test_the_headline_warns_when_it_leaks_and_count_what_is_missing():
    safe, leak = headline(_report("inpaint", 0.02, 1.0)), headline(_report("blur", 0.3, 0.1))
    assert "not distinguishable from chance" in safe[0]
    assert "above chance" in leak[0]
    assert "2 of 50 faces are unchanged" in leak[1]
    assert "1 x output not readable" in leak[-1]


def test_the_table_is_rectangular_and_says_what_is_not_there():
    rows = [line for line in markdown_table((_report("blur", 0.3, 0.1),)).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert "not measured" in rows[2]


def test_a_measure_has_a_value_or_a_reason():
    with pytest.raises(ValueError, match="a value or a reason"):
        Metric("rank-1", None)
    with pytest.raises(ValueError, match="NaN"):
        Metric("rank-1", float("nan"))
    assert Metric("rank-1", 0.5, 0.4, 0.6).text() == "0.50 [0.40, 0.60]"
    assert replace(_report("a", 0.1, 0.1)).to_json()["quality"][0]["value"] == "inf"
