"""The benchmark scripts run on what ships, and their tables say what they should."""

import sys
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut

from deid_diffusion import Repulsion
from deid_diffusion.evaluation.aggregate import DETECTED
from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.settings import Settings
from tests.imaging.clip_maker import make_clip

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import crops
import detection
import identity
import knobs
import leaks
import peers
import privacy
import scenes
import video

QUICK = Settings(steps=1, repulsion=Repulsion(scale=0))


class Colours:
    """A judge that knows people by the colours of their crop."""

    name, threshold, weight_hash = "colours", None, ""

    def embed(self, image, face):
        return image.reshape(8, 32, 8, 32, 3).mean((1, 3)).ravel() - 100


@pytest.fixture(scope="module")
def studio(anonymizer) -> crops.Studio:
    portrait = astronaut()[0:256, 96:352]
    pictures = {"none": np.zeros_like(portrait), "one": portrait, "two": np.ascontiguousarray(portrait[:, ::-1])}
    return crops.Studio.of(anonymizer, pictures, 2)


def test_a_studio_generates_the_same_condition_alike_and_another_differently(studio):
    first, again, older = (studio.generate(QUICK, changes) for changes in ({}, {}, {"age": 80}))
    assert first.shape == (2, 256, 256, 3)
    assert (first == again).all()
    assert (first != older).any()
    for face, generated in zip(studio.ready, older, strict=True):
        off = face.crop.mask == 0
        assert (generated[off] == face.crop.image[off]).all()


def test_a_studio_says_how_many_faces_it_found(anonymizer):
    with pytest.raises(SystemExit, match="wanted 1 pictures with a readable face, got 0"):
        crops.Studio.of(anonymizer, {"none": np.zeros((256, 256, 3), np.uint8)}, 1)


def test_identity_tables_have_a_row_for_each_form_and_strength(studio, tmp_path):
    lines, numbers = identity.targets_table(studio, [Colours()], QUICK)
    assert -1 <= numbers["colours"]["one target"] <= 1
    assert len(lines) == 3
    # Two steps would be one push at pure noise (none acts on the last), which may land anywhere.
    lines, rows = identity.repulsion_table(studio, [Colours()], steps=4)
    assert len(rows) == 2 * (2 * len(identity.STRENGTHS) - 1)
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    # With the source as target, strong repulsion leaves it less like the source than none does.
    own = {(r["strength"], r["gradient"]): r["identity encoder"] for r in rows if r["target"] == "the source"}
    assert own[60.0, "detached"] < own[0.0, "none"]
    assert own[60.0, "through the unet"] < own[0.0, "none"]
    identity.plot(rows, ["identity encoder", "colours"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_off_diagonal_leaves_out_everybody_against_themselves():
    assert sorted(identity.off_diagonal(np.arange(9).reshape(3, 3))) == [1, 2, 5]


def test_the_response_table_is_bold_on_its_diagonal():
    text = knobs.markdown(np.eye(len(knobs.SETTINGS)) * 2 - 0.5)
    rows = text.splitlines()[2:]
    assert len(rows) == len(knobs.SETTINGS)
    for number, row in enumerate(rows):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[number + 1] == "**+1.5**"
        assert cells.count("-0.5") == len(rows) - 1


def test_every_knob_of_the_table_is_an_attribute_within_its_range():
    for name, values in knobs.SETTINGS.items():
        for value in values:
            Attributes(**{name: value})


def test_a_person_who_is_most_like_themselves_beats_all_others():
    probes = np.eye(4)
    share, first = leaks.beaten(probes, probes)
    assert share.tolist() == first.tolist() == [1.0] * 4
    share, first = leaks.beaten(probes, probes[[1, 0, 2, 3]])  # two are taken for each other
    assert share.tolist() == pytest.approx([1 / 3, 1 / 3, 1, 1])
    assert first.tolist() == [0, 0, 1, 1]
    share, first = leaks.beaten(np.ones((4, 2)), np.ones((4, 2)))  # all alike: chance
    assert share.tolist() == [0.5] * 4
    assert first.tolist() == [0.25] * 4


def test_numbers_tell_people_apart_only_where_they_pass():
    age = "age, gender, glasses, beard"
    usual = dict.fromkeys(leaks.EVERYTHING, 0.0) | {"skin_l": 60.0}
    own = [Attributes(**usual | {"age": years}) for years in (20.0, 70.0)] * 2
    rows = {row.split(" | ")[0].strip("| "): row.strip("|").split("|")[1:] for row in leaks.numbers_table(own)[2:]}
    assert [cell.split()[0] for cell in rows[age] if cell.strip()] == [
        "1.000",
        "1.000",
        "1.000",
        "1.000",
        "0.500",
        "0.500",
    ]
    assert [cell.split()[0] for cell in rows["pose"] if cell.strip()] == ["0.500"] * 6
    assert [cell.strip() for cell in rows["light"]][4:] == ["", ""]  # not passed at maximum


def test_the_dial_table_and_its_plot_hold_what_the_reports_say(tmp_path):
    def report(value: float) -> dict:
        metric = {"value": value, "low": value - 0.01, "high": value + 0.01, "floor": 0.05, "chance": 0.02}
        metric["excess"] = [value - 0.05, value - 0.06, value - 0.04]
        names = (*privacy.COLUMNS, DETECTED, privacy.LANDMARK_ERROR)
        metrics = [{"name": name, **metric} for name in names]
        judge = {"judge": "net", "metrics": metrics[: len(privacy.COLUMNS)]}
        return {"judges": [judge], "people": 40, "faces": 120, "utility": metrics[len(privacy.COLUMNS) :]}

    rows = {"standard": report(0.12), "high": report(0.08)}
    lines = privacy.table(rows).splitlines()
    assert lines[0] == "Judge: net; 40 people; 95 % intervals by person."
    assert lines[4].startswith("| standard, 120 faces | 0.120 [0.110, 0.130] | ")
    assert lines[5].startswith("| standard: surroundings alone | 0.050 | ")
    assert lines[6].startswith("| standard: over the surroundings | +0.070 [+0.060, +0.080] | ")
    assert len({line.count("|") for line in lines[2:]}) == 1
    pytest.importorskip("matplotlib")
    privacy.draw(rows, tmp_path / "dial.svg")
    assert "standard" in (tmp_path / "dial.svg").read_text()


def test_the_clip_benchmark_takes_the_end_of_clips_that_are_over_before_its_span(tmp_path):
    clip = make_clip(tmp_path / "short.mkv", count=50)  # 2 s
    for start, seconds, span in ((0, 4, (None, None)), (90, 0.4, (1.6, 2.0)), (0.4, 1, (0.4, 1.4)), (1.4, 1, (1, 2))):
        assert video.span_of(clip, start, seconds) == span
    (tmp_path / "notes.txt").write_text("no clip")
    assert video.all_clips([tmp_path, clip]) == [clip, clip]


def test_the_clip_benchmark_remembers_what_was_replaced():
    masks, drawn = video.Masks(), np.random.default_rng(0).random((3, 33, 47)) < 0.3
    masks.add(drawn[0])
    masks.begin()
    for mask in drawn:
        masks.add(mask)
    assert [(one == two).all() for one, two in zip(masks, drawn, strict=True)] == [True] * 3


def test_scenes_have_faces_where_they_say(tmp_path):
    people = [scenes.Person(astronaut()[:300, 75:375], np.array([150.0, 121]), 118.0, 0.0)]
    rng = np.random.default_rng(0)
    image, placed = scenes.scene(rng, people, 0.5, count=6, sizes=(40, 60), rolls=(0, 90), conditions=("plain",))
    assert image.shape == (612, 816, 3)
    assert len(placed) == 6
    boxes = detection.ours("fast")(image)
    assert detection.found(placed, boxes).all()
    assert detection.false_alarms(placed, boxes) <= 1
    assert not detection.found(placed, boxes + 200).all()
    far = np.array([[700.0, 500, 740, 540]])
    assert detection.false_alarms([scenes.Placed(100, 100, 40, 0, 0, "plain", 30)], far) == 1


def test_the_table_of_detection_has_recall_by_size_and_roll():
    placed = [scenes.Placed(0, 0, 40, roll, 0, "plain", 30) for roll in (0, 0, -90, 90)]
    hits = {"fast": np.array([1, 0, 1, 1], bool), "thorough": np.array([1, 1, 0, 0], bool)}
    lines = detection.table(placed, hits, "roll", (0, 90))
    assert "| 40 | fast | 0.50 | 1.00 |" in lines
    assert "| | n | 2 | 2 |" in lines
    # One face fewer of two upright ones; none fewer of those on their side.
    assert detection.worse_cells(placed, hits["fast"], hits["thorough"], "roll", (0, 90)) == [(40, 0, 1, 0)]


def test_what_is_left_of_faces_is_counted_by_place():
    source, hidden = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    boxes = {0: np.array([[0.0, 0, 4, 4], [4, 4, 8, 8]]), 1: np.array([[0.0, 0, 3, 3]])}
    assert peers.left(lambda image: boxes[int(image[0, 0, 0])], source, hidden) == (2, 1)
