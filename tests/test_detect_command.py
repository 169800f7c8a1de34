"""`deid detect` on pictures and clips; the one fake is the detector."""

import json

import pytest

from deid_diffusion.cli import detect, main
from deid_diffusion.weight_files import sha256_of
from tests.fakes import photo
from tests.test_anonymizer import face


@pytest.fixture(autouse=True)
def _somebody(monkeypatch):
    monkeypatch.setattr(detect, "_detector", lambda name: lambda image: [face(12, 10, 6)])


def told(path):
    """The first lines of files, and the others."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "box" not in line], [line for line in lines if "box" in line]


def test_pictures_are_told_a_line_a_face(tmp_path, capsys):
    for name in ("a.png", "deep/b.png"):
        photo(tmp_path / "in" / name)
    assert main(["detect", str(tmp_path / "in"), "-o", str(tmp_path / "faces.jsonl")]) == 0
    heads, rows = told(tmp_path / "faces.jsonl")
    assert [row["file"] for row in rows] == [head["file"] for head in heads] == ["a.png", "deep/b.png"]
    assert heads[0]["sha256"] == sha256_of(tmp_path / "in" / "a.png")
    assert (heads[0]["width"], heads[0]["height"], len(heads[0]["tracks"])) == (24, 24, 1)
    assert rows[0]["box"] == pytest.approx(face(12, 10, 6).box.tolist(), abs=0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.jsonl", "in"]
    assert "a.png: 1 face" in capsys.readouterr().err


def test_what_cannot_be_read_is_said_and_the_rest_is_written(tmp_path, capsys):
    photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    words = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert main(["detect", *words, "-o", str(tmp_path / "faces.jsonl")]) == 1
    assert [row["file"] for row in told(tmp_path / "faces.jsonl")[1]] == ["a.png"]
    assert "b.png" in capsys.readouterr().err


def test_nothing_is_written_for_a_wrong_command(tmp_path, capsys):
    assert main(["detect", str(tmp_path / "no.png"), "-o", str(tmp_path / "faces.jsonl")]) == 2
    assert "found nothing there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_clips_are_told_with_times_and_tracks(tmp_path):
    pytest.importorskip("deid_diffusion.imaging.clips", reason="clips in files are not there yet")
    pytest.importorskip("av", reason="needs PyAV; pip install 'deid-diffusion[video]'")
    make_clip = pytest.importorskip("tests.imaging.clip_maker").make_clip
    source = make_clip(tmp_path / "clip.mkv", count=5)
    assert main(["detect", str(source), "-o", str(tmp_path / "faces.jsonl")]) == 0
    (head,), rows = told(tmp_path / "faces.jsonl")
    assert [row["pts"] for row in rows] == [0, 40, 80, 120, 160]
    assert {(row["track_id"], row["origin"]) for row in rows} == {(0, "found")}
    assert head["frames"] == head["tracks"][0]["frames"] == 5
