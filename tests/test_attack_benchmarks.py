"""Benchmarks of attacks: who is planted is found, held-out crops become a gallery, photos are analyzed once."""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.evaluation.groups import read_groups
from deid_diffusion.training.quotas import TRAITS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import analyzed
import conditioning_attack
import holdout
import privacy

from tests.test_anonymizer import TWO, build, picture


@pytest.mark.parametrize(("person", "low", "high"), [(3.0, 0.9, 1.0), (0.0, 0.0, 0.1)])
def test_the_attacker_finds_who_is_there_and_nobody_else(person, low, high):
    rng, people = np.random.default_rng(0), 60
    # Six directions hold the person, hidden under a nuisance ten times as strong that both photos differ in.
    traits, nuisance = rng.normal(size=(people, 6)) @ rng.normal(size=(6, 40)) * person, rng.normal(size=(3, 40)) * 30

    def photos() -> np.ndarray:
        return traits + rng.normal(size=(people, 3)) @ nuisance + rng.normal(size=(people, 40))

    probes, gallery = photos(), photos()
    hits = np.zeros(people)
    for known, unknown in conditioning_attack.halves(people, 4, seed=0):
        assert not set(known) & set(unknown)
        hits[unknown] += conditioning_attack.attack(probes, gallery, known, unknown) / 4
    assert low <= hits.mean() <= high


def test_equal_faces_share_a_hit():
    same = np.zeros((4, 2))
    assert np.allclose(conditioning_attack.named(same, same), 0.25)


def test_held_out_crops_become_originals_and_views(tmp_path, monkeypatch, capsys):
    keys, rng = [f"{number:05}" for number in range(6)], np.random.default_rng(0)
    with tarfile.open(tmp_path / "some-00.tar", "w") as tar:
        for key in keys:
            data = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (256, 256, 3), np.uint8)).save(data, "webp", lossless=True)
            member = tarfile.TarInfo(f"{key}.webp")
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    measured = np.zeros((6, len(TRAITS)), np.float32)
    measured[2, [trait.name for trait in TRAITS].index("glasses")] = 1
    np.savez(tmp_path / "some.npz", key=np.array(keys), split=np.array(["holdout", "train"] * 3), measured=measured)
    words = ["holdout.py", str(tmp_path), "--name", "some", "--people", "2", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    holdout.main()
    originals, views = (sorted((tmp_path / "out" / kind).iterdir()) for kind in ("originals", "views"))
    assert [path.name for path in originals] == ["00000.png", "00002.png"]
    assert [path.stem for path in views] == ["00000", "00002"]
    before, after = (np.asarray(Image.open(path)).astype(float) for path in (originals[0], views[0]))
    assert before.shape == after.shape == (256, 256, 3)
    assert np.abs(before - after).mean() > 20
    attributes, groups = read_groups(tmp_path / "out" / "groups.csv")
    worn = {person: row[attributes.index("glasses")] for person, row in groups.items()}
    assert worn == {"00000": "bare", "00002": "glasses"}
    monkeypatch.setattr(sys, "argv", [*words[:5], "9", *words[6:]])
    with pytest.raises(SystemExit, match="wanted 9 held-out crops"):
        holdout.main()


def spotted_wall() -> np.ndarray:
    """Faces before a wall with dots, of which those beside a mask are erased with it."""
    image = np.full((240, 320, 3), 205, np.uint8)
    image[::10, ::10] = 90
    for one in TWO:
        x0, y0, x1, y1 = one.box.astype(int)
        image[y0:y1, x0:x1] = (150, 110, 90)
    return image


@pytest.mark.parametrize("image", [picture(), spotted_wall()], ids=["noise", "wall"])
def test_a_mask_that_is_grown_afterwards_is_the_one_of_an_analysis(tmp_path, image):
    anonymize = build(TWO)
    Image.fromarray(image).save(tmp_path / "a.png")
    photos = analyzed.AnalyzedPhotos(anonymize, tmp_path / "kept")
    for stop in ("maximum", "standard"):
        wanted = anonymize.analyze(tmp_path / "a.png", privacy=stop)
        for one, other in zip(
            photos(tmp_path / "a.png", privacy.LEVELS[stop].growth).tasks, wanted.tasks, strict=True
        ):
            assert np.array_equal(one.inpaint_mask, other.inpaint_mask)
            assert np.array_equal(one.crop.mask, other.crop.mask)


def test_the_dial_analyzes_each_photo_once_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    for name, seed in (("probes", 0), ("gallery", 1)):
        (tmp_path / name).mkdir()
        for key in "ab":
            array = np.random.default_rng([seed, ord(key)]).integers(0, 256, (240, 320, 3), np.uint8)
            Image.fromarray(array).save(tmp_path / name / f"{key}.png")
    folders = privacy.chosen(tmp_path / "probes", tmp_path / "gallery", tmp_path / "sources", 2, None)
    anonymize, analyses = build(TWO[:1]), []
    analyze = anonymize.analyze
    monkeypatch.setattr(anonymize, "analyze", lambda *a, **k: analyses.append(a) or analyze(*a, **k))
    dial = privacy.Dial(lambda: anonymize, folders, tmp_path / "out", candidates=1)
    first = {
        path.name: np.asarray(Image.open(path)).astype(int) for path in dial.run("standard", "probe", 1).iterdir()
    }
    assert len(analyses) == 2
    (tmp_path / "out/standard/probe1/b.png").unlink()
    before = (tmp_path / "out/standard/probe1/a.png").stat().st_mtime_ns
    again = privacy.Dial(lambda: anonymize, folders, tmp_path / "out", candidates=1).run("standard", "probe", 1)
    for path in again.iterdir():  # alone, a face is rounded another way than in a batch
        assert np.abs(np.asarray(Image.open(path)) - first[path.name]).max() <= 1
    assert (again / "a.png").stat().st_mtime_ns == before
    assert len(analyses) == 2
    assert len((tmp_path / "out/outcomes.csv").read_text().splitlines()) == 3
