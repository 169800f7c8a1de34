import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion import cli
from deid_diffusion.cli import options
from deid_diffusion.cli import run as run_command
from deid_diffusion.cli.boxes import HEADERS
from deid_diffusion.faces.references import reference_face
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.jobs.journal import NAME
from deid_diffusion.methods import method_names
from deid_diffusion.models.backends import BACKENDS
from deid_diffusion.models.loading import DTYPES
from deid_diffusion.models.registry import FAMILIES
from deid_diffusion.models.weights import sha256_of
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.pipelines.sd_landmarks import STYLES
from deid_diffusion.settings import DROPPABLE
from deid_diffusion.types import Face, Outcome, Redaction

from .fakes import Inverter, photo

CHECKOUT = Path(__file__).parent.parent


def deid(*words) -> subprocess.CompletedProcess:
    """`deid` in a fresh process."""
    command = [sys.executable, "-c", "from deid_diffusion.cli import main; raise SystemExit(main())", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=CHECKOUT)


@pytest.fixture
def painter(monkeypatch) -> Inverter:
    anonymize = Inverter()
    monkeypatch.setattr(run_command, "_load", lambda options: anonymize)
    return anonymize


def run(*words) -> int:
    """`deid run` in this process; the exit code, also when argparse leaves."""
    try:
        return cli.main(["run", *map(str, words)])
    except SystemExit as leaving:
        return leaving.code


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from deid_diffusion.cli import main; main(['--help']); "
        "print(sorted({'torch', 'numpy', 'rich', 'diffusers', 'PIL', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("[]\n")
    assert "deid run" not in done.stderr


def test_help_names_the_commands_that_work():
    done = deid("--help")
    assert done.returncode == 0
    for name in ("run", "train", "eval", "publish"):
        assert f"\n  {name} " in done.stdout
    assert cli.main(["nonsense"]) == 2
    assert cli.main([]) == 2


@pytest.mark.parametrize("words", [["run", "--help"], ["train", "--help"], ["eval", "--help"], ["publish", "--help"]])
def test_each_command_has_help(words, capsys):
    try:
        code = cli.main(words)
    except SystemExit as leaving:
        code = leaving.code
    assert code == 0
    assert capsys.readouterr().out.startswith(f"usage: deid {words[0]}")


def test_a_photo_is_written_beside_itself(tmp_path, painter, capsys):
    source = photo(tmp_path / "photo.png")
    assert run(source, "--seed", 7) == 0
    assert painter.calls[0][1] == 7
    assert load_picture(tmp_path / "photo_anon.png").image.shape == (24, 24, 3)
    out, err = capsys.readouterr()
    assert f"{source} -> {tmp_path / 'photo_anon.png'}  1 face: 1 replaced" in out
    assert "1 of 1 pictures done" in err
    # Nothing else is left beside the user's photos.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png", "photo_anon.png"]


def test_a_second_run_asks_for_overwrite_before_it_loads_the_model(tmp_path, painter, monkeypatch, capsys):
    source = photo(tmp_path / "photo.png")
    assert run(source) == 0
    with monkeypatch.context() as patch:
        patch.setattr(run_command, "_load", lambda options: pytest.fail("loaded"))
        assert run(source) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run(source, "--overwrite") == 0


def test_a_folder_with_one_bad_file_is_reported_whole_and_exits_1(tmp_path, painter, capsys):
    for name in ("a.png", "sub/b.png"):
        photo(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.jpg").write_text("no picture")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    report = tmp_path / "new" / "report.json"
    words = [tmp_path / "in", "-o", tmp_path / "out", "--report", report, "--set", "age=60", "--strength", "2"]
    assert run(*words) == 1
    err = capsys.readouterr().err
    assert "failed: bad.jpg" in err
    assert "1 hidden or other files left out" in err
    assert "Traceback" not in err
    told = json.loads(report.read_text())
    assert told["complete"] is True
    assert told["versions"]["weights"] == {"unet": "abc"}
    assert told["settings"]["attributes"] == {"age": 60.0}
    assert [row["file"] for row in told["files"]] == ["a.png", "bad.jpg", "sub/b.png"]
    assert told["files"][0]["seconds"].keys() == {"detect", "inpaint", "write"}
    assert "no picture" not in told["files"][1]["error"]
    assert told["files"][1]["output"] is None
    assert told["files"][1]["sha256"] is None
    assert told["files"][0]["sha256"] == sha256_of(tmp_path / "in" / "a.png")
    assert (told["files"][0]["width"], told["files"][0]["height"]) == (24, 24)
    face = told["faces"][0]
    assert face.keys() >= {"file", "box", "outcome", "seed", "similarity", "attributes", "reason"}
    assert sum(line.startswith(' {"file"') and "outcome" in line for line in report.read_text().splitlines()) == 2


def test_of_pictures_that_failed_the_summary_claims_nothing(tmp_path, painter, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jpg").write_text("no picture")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "0 of 1 pictures done; 1 failed" in err
    assert "no face found" not in err


def test_ctrl_c_leaves_nothing_half_written_and_says_how_to_go_on(tmp_path, painter, capsys):
    for name in ("a.png", "b.png", "c.png"):
        photo(tmp_path / "in" / name)
    painter.stop_at, painter.error = 1, KeyboardInterrupt()
    words = [tmp_path / "in", "-o", tmp_path / "out", "--report", tmp_path / "report.json"]
    assert run(*words) == 130
    err = capsys.readouterr().err
    assert "the same command goes on" in err
    assert json.loads((tmp_path / "report.json").read_text())["complete"] is False
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [NAME, "a.png"]
    painter.stop_at = None
    assert run(*words) == 0
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["complete"] is True
    assert len(told["faces"]) == 3
    assert "a.png" in capsys.readouterr().out


def test_an_interrupted_glob_goes_on_although_it_now_finds_outputs(tmp_path, painter):
    for name in ("a.png", "b.png"):
        photo(tmp_path / name)
    painter.stop_at, painter.error = 1, KeyboardInterrupt()
    assert run(*sorted(tmp_path.glob("*.png"))) == 130
    painter.stop_at = None
    assert run(*sorted(tmp_path.glob("*.png"))) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_anon.png", "b.png", "b_anon.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "wanted pictures or folders"),
        (["nope.jpg"], "found nothing there"),
        (["p.png", "--set", "hair=3"], "unknown attribute 'hair'"),
        (["p.png", "--set", "age=300"], "age must lie in"),
        (["p.png", "--set", "age=nan"], "age must lie in"),
        (["p.png", "--set", "age"], "wanted NAME=NUMBER"),
        (["p.png", "--drop", "yaw_deg"], "invalid choice"),
        (["p.png", "--forget", "age"], "--forget is called --drop now"),
        (["p.png", "--method", "swop"], "method must be one of"),
        (["p.png", "--steps", "0"], "steps must be >= 1"),
        (["p.png", "--strength", "-1"], "strength must be >= 0"),
        (["p.png", "--strength", "nan"], "wanted a number"),
        (["p.png", "--repulsion", "-3"], "scale must be >= 0"),
        (["p.png", "--seed", "x"], "wanted a whole number"),
        (["p.png", "--method", "k-same", "--k", "1"], "k must be >= 2"),
        (["p.png", "-o", "p.png"], "got the input"),
        (["p.png", "--report", "p.png"], "wanted the name of a JSON file"),
        (["p.png", "--boxes", "nope.csv"], "No such file"),
        (["p.png", "--boxes-format", "xyxy"], "give --boxes too"),
        (["p.png", "--only", "nope.jpg"], "found nothing there"),
        (["p.png", "--only", "p.png", "--except", "p.png"], "not allowed with"),
        (["clip.mp4", "--method", "k-same"], "--method k-same is for pictures"),
        (["clip.mp4", "--boxes", "boxes.csv"], "--boxes is for pictures"),
        (["clip.mp4", "--stride", "0"], "wanted a whole number >= 1"),
        (["clip.mp4", "--from", "1:2:3:4"], "wanted seconds or H:MM:SS"),
        (["clip.mp4", "--from", "5", "--to", "0:04"], "stops after it starts"),
        (["p.png", "--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_command_lines_are_one_line_and_exit_2_before_the_model_loads(
    tmp_path, monkeypatch, capsys, words, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_command, "_load", lambda options: pytest.fail("loaded"))
    photo(tmp_path / "p.png")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\nclip.mp4,1,1,9,9\n")
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.csv", "clip.mp4", "p.png"]


def test_unexpected_errors_are_one_line_too_unless_debug(tmp_path, monkeypatch, capsys):
    def broken(options):
        raise FileNotFoundError("no shipped weights 'face256'")

    monkeypatch.setattr(run_command, "_load", broken)
    source = photo(tmp_path / "p.png")
    assert run(source) == 1
    assert capsys.readouterr().err == "deid: no shipped weights 'face256' (--debug shows where)\n"
    with pytest.raises(FileNotFoundError):
        run(source, "--debug")


@pytest.mark.parametrize(("option", "field"), [("--only", "only"), ("--except", "keep")])
def test_reference_photos_become_people_and_what_that_does_is_said(tmp_path, painter, capsys, option, field):
    photo(tmp_path / "refs" / "1.png")
    photo(tmp_path / "refs" / "2.png")
    reference = photo(tmp_path / "me.png")
    assert run(photo(tmp_path / "p.png"), option, tmp_path / "refs", option, reference) == 0
    settings = painter.calls[0][3]
    assert getattr(settings, field).embedding.shape == (3, 4)
    assert f"{option}, 3 reference photos: leaves faces whose similarity is" in capsys.readouterr().err


def test_a_reference_of_two_people_ends_the_run_before_anything_is_written(tmp_path, painter, monkeypatch, capsys):
    def refused(photos):
        five = np.array([[4, 4], [8, 4], [6, 6], [4, 8], [8, 8]])
        reference_face([Face(np.array([2, 2, 10, 10]), five)] * 2, photos[0])

    monkeypatch.setattr(painter, "embed_references", refused)
    source, reference = photo(tmp_path / "p.png"), photo(tmp_path / "both.png")
    assert run(source, "--except", reference) == 2
    assert "both.png: wanted a reference photo of one person, got 2 faces" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.png", "p.png"]


def test_the_summary_counts_kept_and_borderline_faces(tmp_path, painter, monkeypatch, capsys):
    real = painter.__class__.__call__

    def selective(self, *given, **named):
        result = real(self, *given, **named)
        kept, doubted = (replace(result.faces[0], outcome=outcome) for outcome in (Outcome.KEPT, Outcome.REDACTED))
        return replace(result, faces=(kept, replace(doubted, borderline=True)))

    monkeypatch.setattr(painter.__class__, "__call__", selective)
    assert run(photo(tmp_path / "p.png")) == 0
    assert "2 faces: 1 redacted, 1 kept; 1 borderline, hidden" in capsys.readouterr().err


def test_a_preview_is_written_with_a_warning(tmp_path, painter, capsys):
    assert run(photo(tmp_path / "p.png"), "--preview", "side-by-side") == 0
    assert (tmp_path / "p_anon_before_after.png").exists()
    assert "show the source faces" in capsys.readouterr().err


def test_on_a_terminal_there_is_a_bar_with_faces_and_time_left(tmp_path, painter, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    for name in ("a.png", "b.png"):
        photo(tmp_path / "in" / name)
    assert run(tmp_path / "in") == 0
    assert "2/2" in screen.getvalue()
    assert "2 faces" in screen.getvalue()
    assert "left" in screen.getvalue()


def test_the_names_in_the_help_are_those_of_the_model():
    assert tuple(options.ATTRIBUTES.split()) == ATTRIBUTE_NAMES
    assert options.DROPPABLE == DROPPABLE
    assert options.PIPELINES == tuple(FAMILIES)
    assert options.DTYPES == tuple(DTYPES)
    assert options.BACKENDS == BACKENDS
    assert options.LANDMARK_STYLES == STYLES
    assert (*options.REDACTIONS,) == tuple(kind.value for kind in Redaction)
    assert set(options.BOX_FORMATS) == set(HEADERS.values())


def test_every_method_of_the_folder_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in method_names())


def test_attributes_are_listed(capsys):
    assert run("--set", "help") == 0
    assert "age        0 to 100: years" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nonsense"]])
def test_train_names_what_can_be_trained(words, capsys):
    assert cli.main(["train", *words]) == 2
    assert "wanted one of blend, distill" in capsys.readouterr().err


def test_train_lists_every_script_with_what_it_does(capsys):
    assert cli.main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for name in ("inpaint", "estimator", "estimator_head", "id_encoder", "distill", "blend", "label", "pack",
                 "filter_bank", "sample_grid"):  # fmt: skip
        assert re.search(rf"^  {name} +[A-Z].*[.:,]", out, re.MULTILINE), name
    assert "counterfactual" not in out  # has no main: it is no command


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["audition"], "is now called `deid train filter_bank`"),
        (["reader"], "is now called `deid train estimator`"),
        (["distill", "--wish-weight", "0.1"], "--wish-weight is now called --counterfactual-weight"),
        (["distill", "--guide=runs/id_encoder"], "--guide is now called --id-encoder"),
        (["filter_bank", "--share", "0.2"], "--share is now called --max-share"),
    ],
)
def test_train_answers_an_old_name_with_the_new_one(words, answer, capsys):
    try:
        code = cli.main(["train", *words])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert answer in " ".join(capsys.readouterr().err.split())


def test_train_hands_the_rest_on(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "estimator", "--help"])
    assert "--minutes" in capsys.readouterr().out


def test_eval_refuses_what_it_cannot_judge_in_one_line(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    assert cli.main(["eval", str(tmp_path / "in"), str(tmp_path / "out"), "--detector", "centerface"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("deid: ")
    assert err.count("\n") == 1


def test_publish_refuses_what_is_no_pipeline_in_one_line(tmp_path, capsys):
    assert cli.main(["publish", str(tmp_path), "acme/face", "-o", str(tmp_path / "hub"), "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert "model_index.json" in err
    assert err.count("\n") == 1


def test_the_shipped_model_hides_the_astronaut(tmp_path, weights, astronaut):
    source = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(source)
    done = deid("run", source, "--report", tmp_path / "report.json", "--seed", 7)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("deid: 1 of 1 pictures done")
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["versions"]["weights"]
    assert len(told["faces"]) >= 1
    after = load_picture(tmp_path / "astronaut_anon.png").image
    for face in told["faces"]:
        assert face["outcome"] in ("replaced", "redacted")
        x0, y0, x1, y1 = (round(v) for v in face["box"])
        middle = np.s_[(3 * y0 + y1) // 4 : (y0 + 3 * y1) // 4, (3 * x0 + x1) // 4 : (x0 + 3 * x1) // 4]
        assert (after[middle] != astronaut[middle]).any(-1).mean() > 0.9
    assert (after[-50:] == astronaut[-50:]).all()


def test_a_real_ctrl_c_in_mid_batch_is_survived(tmp_path, weights, astronaut, capsys):
    count = 16  # so many that the last is not done before the signal arrives, however busy the machine
    for number in range(count):
        path = tmp_path / "in" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(astronaut[:256, 96:352]).save(path)
    # A shell that starts the tests in the background has them ignore Ctrl-C, and whatever they start inherits that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from deid_diffusion.cli import main; raise SystemExit(main())"
    words = [sys.executable, "-c", code, "run", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT)
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "goes on where this stopped" in err
    assert first.startswith(str(tmp_path / "in" / "00.png"))
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".part"] == []
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == count
    assert "done before" in lines[0]
