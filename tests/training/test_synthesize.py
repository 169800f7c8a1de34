"""The data set: the same people from the same seed, whatever happened in between."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion import cli
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training import generator
from deid_diffusion.training.census import census, census_text, draw_sheet
from deid_diffusion.training.data import load_faces
from deid_diffusion.training.face_labels import MEASURED
from deid_diffusion.training.quotas import Trait
from deid_diffusion.training.shards import Shards
from deid_diffusion.training.synthesize import Options, settle, synthesize

AGE = Trait("log_age", (3.0,), ("young", "old"), (0.4, 0.6))


def crop(shade: int, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 90, 60)).save(buffer, "WEBP")
    return buffer.getvalue()


def add(shards: Shards, ages: list[float], faults: list[str]) -> None:
    """A shard of people with these ages (log); attempts have them, too."""
    number = sum(len(labels["key"]) for labels in shards.labels)
    keys = [f"k{number + n:03d}" for n in range(len(ages))]
    measured = np.zeros((len(ages), len(MEASURED)), np.float32)
    measured[:, 0] = ages
    tried = np.zeros((len(faults), len(MEASURED)), np.float32)
    tried[:, 0] = np.resize(ages, len(faults))
    tried[[fault == "no face" for fault in faults]] = np.nan
    labels = {
        "key": np.array(keys), "measured": measured, "second": np.zeros(len(ages), bool),
        "glasses": np.zeros(len(ages)), "facial_hair": np.ones(len(ages)), "tried_measured": tried,
        "tried_fault": np.array(faults, "U16"), "tried_style": np.zeros((len(faults), 4), np.float16),
    }  # fmt: skip
    shards.add({"": [(key, crop(50 + n)) for n, key in enumerate(keys)]}, labels)


def test_shards_from_before_sunglasses_were_an_attribute_get_them(tmp_path):
    measured = np.zeros((2, len(MEASURED)), np.float32)
    measured[1, MEASURED.index("lens_shade")] = 0.5
    attributes = np.zeros((2, len(ATTRIBUTE_NAMES) - 1), np.float32)
    labels = {"key": np.array(["a", "b"]), "measured": measured, "attributes": attributes}
    Shards(tmp_path).add({"": [("a", crop(50)), ("b", crop(60))]}, labels)
    (read,) = Shards(tmp_path).labels
    assert read["attributes"][:, ATTRIBUTE_NAMES.index("sunglasses")].tolist() == [0, 1]
    assert read["sunglasses"].tolist() == [0, 1]


def test_shards_are_read_back_and_together(tmp_path):
    shards = Shards(tmp_path)
    add(shards, [2.0, 4.0], ["", "", "no face"])
    add(shards, [5.0], ["not needed", ""])
    again = Shards(tmp_path)
    assert again.column("key").tolist() == ["k000", "k001", "k002"]
    assert len(again.column("tried_fault")) == 5
    assert [key for key, _ in again.crops()] == ["k000", "k001", "k002"]
    with np.load(tmp_path / "synthetic.npz") as together:
        assert together["key"].tolist() == ["k000", "k001", "k002"]
        assert not [name for name in together.files if name.startswith("tried")]
    with np.load(tmp_path / "synthetic_labels.npz") as more:
        assert set(more.files) == {"key", "glasses", "facial_hair"}


def test_crops_without_labels_are_of_a_killed_run_and_are_overwritten(tmp_path):
    shards = Shards(tmp_path)
    add(shards, [2.0], [""])
    (tmp_path / "synthetic-0001.tar").write_bytes(b"torn")
    (tmp_path / "synthetic-0001.npz.part").write_bytes(b"torn")
    again = Shards(tmp_path)
    assert len(again.labels) == 1
    add(again, [3.0], [""])
    assert [key for key, _ in Shards(tmp_path).crops()] == ["k000", "k001"]


def test_the_census_counts_who_is_kept_and_whose_attempts_failed(tmp_path):
    shards = Shards(tmp_path)
    add(shards, [2.0, 4.0, 2.5, 5.0], ["", "second face", "", "", "not needed", "no face"])
    table = census(shards, [AGE])
    assert (table["people"], table["attempts"]) == (4, 6)
    assert table["groups"]["log_age"]["young"] == {"count": 2, "share": 0.5, "wanted": 0.4, "faulty": 0.0}
    assert table["groups"]["log_age"]["old"]["faulty"] == 0.5  # one of two; "not needed" is no fault
    assert table["left_out"] == {"no face": 1, "not needed": 1, "second face": 1}
    assert "4 people on 4 crops, of 6 attempts" in census_text(table)
    assert draw_sheet(shards, [AGE]).size[1] == 2 * 112


def test_a_folder_that_was_begun_with_another_seed_is_refused(tmp_path):
    settle(Options(seed=1), tmp_path)
    settle(Options(seed=1, count=7, threads=2), tmp_path)  # these change nobody
    with pytest.raises(ValueError, match="begun with other options: seed was 1, is 2"):
        settle(Options(seed=2), tmp_path)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"shard": 0}, {"scouts": 0}])
def test_numbers_below_one_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match="must be 1 or more"):
        synthesize(Options(out=str(tmp_path / "out"), **wrong))
    assert not (tmp_path / "out").exists()


def test_without_the_wheel_nothing_is_written_and_the_exit_code_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generator, "find_spec", lambda name: None)
    assert cli.main(["train", "synthesize", "--out", str(tmp_path / "out")]) == 1
    assert "pip install --no-deps random-face==2021.7.21.1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# From here on the real generator paints, at a second a portrait.
@pytest.fixture(scope="module")
def wheel(weights):
    if importlib.util.find_spec("random_face") is None:
        pytest.skip(f"needs the generator's wheel: pip install --no-deps {generator.WHEEL}")
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("paints four times as long without openvino; pip install 'deid-diffusion[openvino]'")


COMMON = {"scouts": 3, "shard": 3, "seed": 5}


@pytest.fixture(scope="module")
def whole(wheel, tmp_path_factory) -> Path:
    """Five people, made in one go: one shard drawn blindly, the rest chosen."""
    out = tmp_path_factory.mktemp("whole")
    synthesize(Options(out=str(out), count=5, **COMMON))
    return out


def pixels(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("synthetic*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                found[f"{image.width} {member.name}"] = np.asarray(image).astype(int)
    return found


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = pixels(one), pixels(other)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert np.abs(ours[key] - theirs[key]).max() <= 2, key
    with np.load(one / "synthetic.npz") as a, np.load(other / "synthetic.npz") as b:
        assert a["key"].tolist() == b["key"].tolist()
        np.testing.assert_allclose(a["landmarks"], b["landmarks"], atol=0.2)
        np.testing.assert_array_equal(a["style"], b["style"])


def test_what_comes_out_is_what_training_reads(whole):
    faces = load_faces(whole, labels=whole / "synthetic_labels.npz")
    assert faces.images.shape == (5, 3, 256, 256)
    assert len(set(faces.keys)) == 5
    assert len([key for key in pixels(whole) if key.startswith("512 ")]) == 5
    table = json.loads((whole / "census.json").read_text())
    assert table["people"] == 5
    assert (whole / "sheet.png").exists()
    assert "5 people" in (whole / "census.txt").read_text()


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_people(whole, tmp_path):
    code = "import sys; from deid_diffusion.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["train", "synthesize", "--out", str(tmp_path), "--count", "5"]
    for name, value in COMMON.items():
        words += [f"--{name}", str(value)]
    run = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (tmp_path / "synthetic-0000.npz").exists() and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.2)
    time.sleep(1.0)  # into the next shard
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert (tmp_path / "synthetic-0000.npz").exists()
    assert not (tmp_path / "census.json").exists()
    synthesize(Options(out=str(tmp_path), count=5, **COMMON))
    assert_same(whole, tmp_path)


def test_more_people_later_are_the_people_of_one_go(whole, tmp_path):
    synthesize(Options(out=str(tmp_path), count=2, **COMMON))
    assert len(Shards(tmp_path).column("key")) == 2
    synthesize(Options(out=str(tmp_path), count=5, **COMMON))
    assert_same(whole, tmp_path)


def test_a_second_picture_is_of_the_same_person(wheel, tmp_path):
    synthesize(Options(out=str(tmp_path), count=4, pairs=True, **COMMON))
    labels = np.load(tmp_path / "synthetic.npz")
    first = labels["key"][~labels["second"]].tolist()
    assert len(first) == 4
    for key, person, second in zip(labels["key"], labels["person"], labels["second"], strict=True):
        if second:
            partner = first.index(key[:-1])
            assert labels["person"][~labels["second"]][partner] == person
            both = labels["embedding"][[labels["key"].tolist().index(key[:-1]), labels["key"].tolist().index(key)]]
            assert float(np.prod(both.astype(float), 0).sum()) > 0.64
    assert len(labels["key"]) == len(pixels(tmp_path)) / 2
