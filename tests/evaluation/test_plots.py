import pytest

from deid_diffusion.evaluation.privacy import RANK_1
from deid_diffusion.evaluation.results import Metric
from tests.evaluation.test_html_report import _report

pytest.importorskip("matplotlib")
from deid_diffusion.evaluation.plots import draw_all, draw_rank1, svg


def test_every_plot_is_drawn_with_its_caption_and_the_same_bytes_twice():
    reports = (_report("inpaint", 0.02, 0.98), _report("blur", 0.3, 0.1))
    plots = draw_all(reports)
    assert len(plots) == 5
    assert all(caption.endswith(".") for caption, _ in plots)
    assert svg(plots[0][1]).startswith(b"<?xml")
    assert svg(draw_rank1(reports)) == svg(draw_rank1(reports))


def test_bars_have_the_heights_of_the_numbers():
    axes = draw_rank1((_report("inpaint", 0.02, 0.98), _report("blur", 0.3, 0.1))).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.02, 0.3]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["inpaint", "blur"]


def test_a_rank_that_was_not_measured_leaves_a_gap_not_a_zero():
    from dataclasses import replace

    report = _report("blur", 0.3, 0.1)
    judge = replace(report.judges[0], metrics=(Metric.missing(RANK_1, "one person"),), cmc=((), ()))
    plots = draw_all((replace(report, judges=(judge,)),))
    assert len(plots) == 2
    assert "n/a" in [text.get_text() for text in plots[0][1].axes[0].texts]
