import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion import cli
from deid_diffusion.cli import options
from deid_diffusion.cli import run as run_command
from deid_diffusion.cli.boxes import HEADERS
from deid_diffusion.faces.fast_detect import DETECTORS
from deid_diffusion.faces.references import reference_face
from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.jobs.journal import NAME
from deid_diffusion.methods import method_names
from deid_diffusion.models.backends import BACKENDS
from deid_diffusion.models.loading import DTYPES
from deid_diffusion.models.registry import FAMILIES
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.pipelines.sd_landmarks import STYLES
from deid_diffusion.privacy import LEVELS
from deid_diffusion.settings import DROPPABLE
from deid_diffusion.types import KEEPABLE, Face, Outcome, Redaction
from deid_diffusion.weight_files import sha256_of

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
    words = [tmp_path / "in", "-o", tmp_path / "out", "--report", report, "--set", "age=60", "--repulsion-factor", "2"]
    assert run(*words) == 1
    err = capsys.readouterr().err
    assert "failed: bad.jpg" in err
    assert "1 left out (1 no picture by its suffix)" in err
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
    assert told["skipped"] == [{"path": str(tmp_path / "in/notes.txt"), "reason": "no picture by its suffix"}]
    assert told["skipped_total"] == 1
    face = told["faces"][0]
    assert face.keys() >= {"file", "box", "outcome", "similarity", "attributes", "reason"}
    assert '"seed"' not in report.read_text()
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
        (["p.png", "--keep-metadata", "date,gps"], "wanted any of copyright,date,dpi"),
        (["p.png", "--forget", "age"], "--forget is called --drop now"),
        (["p.png", "--method", "swop"], "method must be one of"),
        (["p.png", "--steps", "0"], "steps must be >= 1"),
        (["p.png", "--repulsion-factor", "-1"], "repulsion_factor must be >= 0"),
        (["p.png", "--repulsion-factor", "nan"], "wanted a number"),
        (["p.png", "--repulsion", "-3"], "scale must be >= 0"),
        (["p.png", "--seed", "x"], "wanted a whole number"),
        (["p.png", "--method", "k-same", "--k", "1"], "k must be >= 2"),
        (["p.png", "-o", "p.png"], "got the input"),
        (["p.png", "--report", "p.png"], "wanted the name of a JSON file"),
        (["p.png", "--report", "/dev/null"], "got a device"),
        (["p.png", "--report", "clip.mp4"], "got another file"),
        (["p.png", "-o", "/dev/null"], "got a device"),
        (["p.png", "-o", "out.jp2"], "wanted a suffix out of"),
        (["p.png", "--exclude", "p*"], "none that is not left out (excluded)"),
        (["p.png", "--max-pixels", "0"], "max_pixels must be >= 1"),
        (["p.png", "--dtype", "float16"], "take float32 or bfloat16"),
        (["p.png", "--dtype", "float16", "--device", "cpu"], "take float32 or bfloat16"),
        (["p.png", "--boxes", "nope.csv"], "No such file"),
        (["p.png", "--boxes-format", "xyxy"], "give --boxes too"),
        (["p.png", "--only", "nope.jpg"], "found nothing there"),
        (["p.png", "--only", "p.png", "--except", "p.png"], "not allowed with"),
        (["clip.mp4", "--method", "k-same"], "--method k-same is for pictures"),
        (["clip.mp4", "--boxes", "boxes.csv"], "boxes.csv is for pictures, and this is a clip; give the .jsonl"),
        (["clip.mp4", "--panorama"], "--panorama is for pictures"),
        (["clip.mp4", "--keep-metadata", "date"], "--keep-metadata is for pictures"),
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
    assert options.KEEPABLE == KEEPABLE
    assert options.PIPELINES == tuple(FAMILIES)
    assert options.DTYPES == tuple(DTYPES)
    assert options.BACKENDS == BACKENDS
    assert options.DETECTION == tuple(DETECTORS)
    assert options.LANDMARK_STYLES == STYLES
    assert options.PRIVACY == tuple(LEVELS)
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
    assert "wanted one of all, apertures, blend, detail, detail_pairs, distill" in capsys.readouterr().err


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


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_real_signal_in_mid_batch_is_survived(tmp_path, weights, astronaut, capsys, sent, code):
    # So many that the last is not done before the signal arrives, however busy the machine.
    count, how = (6, []) if sent == signal.SIGINT else (60, ["--method", "blur"])
    for number in range(count):
        path = tmp_path / "in" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(astronaut[:256, 96:352]).save(path)
    # A shell that starts the tests in the background has them ignore Ctrl-C, and whatever they start inherits that.
    heed = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); s.signal(s.SIGHUP, s.SIG_DFL)"
    program = f"{heed}; from deid_diffusion.cli import main; raise SystemExit(main())"
    words = [sys.executable, "-c", program, "run", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    words += ["--report", str(tmp_path / "report.json"), *how]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT)
    first = process.stdout.readline()
    process.send_signal(sent)
    if sent != signal.SIGINT:
        process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["complete"] is False
    assert told["files"]
    assert "goes on where this stopped" in err
    assert first.startswith(str(tmp_path / "in"))  # workers race for being the first
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".part"] == []
    if sent != signal.SIGINT:
        return
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == count
    assert sum("done before" in line for line in lines) >= len(told["files"])


def test_the_report_is_written_whatever_ends_the_run(tmp_path, painter, monkeypatch):
    for name in ("a.png", "b.png"):
        photo(tmp_path / "in" / name)

    def torn(result):
        raise RuntimeError("no terminal any more")

    monkeypatch.setattr("deid_diffusion.cli.show.print_result", torn)
    assert run(tmp_path / "in", "-o", tmp_path / "out", "--report", tmp_path / "report.json") == 1
    told = json.loads((tmp_path / "report.json").read_text())
    assert [row["file"] for row in told["files"]] == ["a.png"]
    assert told["complete"] is False


@pytest.fixture
def open_folder():
    """A folder that everybody may use. As root, who may read everything, the test goes on as nobody."""
    folder = Path(tempfile.mkdtemp(prefix="deid-"))
    folder.chmod(0o777)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in folder.rglob("closed*"):
            path.chmod(0o700)
        shutil.rmtree(folder)


def test_an_unreadable_folder_is_left_out_and_said(open_folder, painter, capsys):
    photo(open_folder / "in" / "a.png")
    for name, mode in (("closed", 0), ("closed_to_see", 0o444)):
        photo(open_folder / "in" / name / "b.png")
        (open_folder / "in" / name).chmod(mode)
    report = open_folder / "report.json"
    assert run(open_folder / "in", "--report", report) == 1
    err = capsys.readouterr().err
    assert "1 left out (1 unreadable folder (Permission denied))" in err
    assert f"failed: {open_folder / 'in/closed'}: unreadable folder" in err
    assert "wanted to read it, got Permission denied" in err
    told = json.loads(report.read_text())
    assert [(row["file"], row["error"] == "") for row in told["files"]] == [
        ("a.png", True),
        ("closed_to_see/b.png", False),
    ]
    assert told["skipped"][0]["path"] == str(open_folder / "in/closed")
    # Of the folder that was asked for nothing could be done at all.
    (open_folder / "in").rename(open_folder / "closed")
    (open_folder / "closed").chmod(0)
    assert run(open_folder / "closed") == 2
    assert run(open_folder / "closed" / "a.png") == 2
    assert "got Permission denied" in capsys.readouterr().err


def test_a_folder_that_becomes_unreadable_fails_its_files_only(open_folder, painter, monkeypatch):
    for name in ("a.png", "closed/b.png", "c.png"):
        photo(open_folder / "in" / name)
    real = painter.__class__.__call__

    def closing(self, *given, **named):
        (open_folder / "in" / "closed").chmod(0)
        return real(self, *given, **named)

    monkeypatch.setattr(painter.__class__, "__call__", closing)
    assert run(open_folder / "in", "--report", open_folder / "report.json") == 1
    told = json.loads((open_folder / "report.json").read_text())
    assert [row["file"] for row in told["files"] if row["error"]] == ["closed/b.png"]
    assert told["complete"] is True


def test_a_second_glob_leaves_its_own_outputs_out_and_counts_them(tmp_path, painter, capsys):
    for name in ("a.png", "b.png"):
        photo(tmp_path / name)
    assert run(*sorted(tmp_path.glob("*.png")), "--preview", "side-by-side") == 0
    capsys.readouterr()
    assert run(*sorted(tmp_path.glob("*.png"))) == 1
    said = "a_anon.png exists already; --overwrite replaces it, -o goes elsewhere (and 1 more like it); 4 left out"
    assert said in capsys.readouterr().err
    photo(tmp_path / "c.png")
    painter.calls.clear()
    assert run(*sorted(tmp_path.glob("*.png"))) == 1  # two exist already
    assert [call[0] for call in painter.calls] == ["c.png"]
    assert "1 of 3 pictures done" in (err := capsys.readouterr().err)
    assert "4 left out (4 written by this tool)" in err
    assert not list(tmp_path.glob("*_anon_anon*"))


def test_a_preview_does_not_replace_somebody_elses_file(tmp_path, painter, capsys):
    source = photo(tmp_path / "a.png")
    mine = tmp_path / "a_anon_before_after.png"
    mine.write_text("mine")
    assert run(source, "--preview", "side-by-side") == 1
    assert f"{mine} exists already" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert run(source, "--preview", "side-by-side", "--overwrite") == 0
    assert load_picture(mine)


def test_a_hard_link_in_the_output_s_place_is_replaced_and_its_other_name_keeps_the_old(tmp_path, painter, capsys):
    source, other = photo(tmp_path / "a.png"), photo(tmp_path / "mine.png", side=30)
    os.link(other, tmp_path / "a_anon.png")
    before = other.read_bytes()
    assert run(source, "--overwrite") == 0
    assert "a_anon.png is a hard link" in capsys.readouterr().err
    assert other.read_bytes() == before
    assert load_picture(tmp_path / "a_anon.png").image.shape == (24, 24, 3)


def test_of_many_files_that_are_left_out_the_report_names_a_thousand(tmp_path, painter):
    source = photo(tmp_path / "in" / "a.png")
    for number in range(1200):
        (source.parent / f"{number}.txt").touch()
    assert run(source.parent, "--report", tmp_path / "report.json") == 0
    told = json.loads((tmp_path / "report.json").read_text())
    assert (len(told["skipped"]), told["skipped_total"]) == (1000, 1200)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_that_is_closed_leaves_the_report(tmp_path):
    import pty

    for number in range(200):
        photo(tmp_path / "in" / f"{number:03}.png")
    program = f"""
import signal, sys, time; sys.path.insert(0, {str(CHECKOUT)!r})
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it (nohup)
from tests.fakes import Inverter
from deid_diffusion import cli
from deid_diffusion.cli import run
class Slow(Inverter):
    def __call__(self, *given, **named):
        time.sleep(0.1)
        return super().__call__(*given, **named)
run._load = lambda options: Slow()
sys.exit(cli.main(["run", {str(tmp_path / "in")!r}, "--workers", "1", "--report", {str(tmp_path / "report.json")!r}]))
"""
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", program])
    said = b""
    while b"000.png" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["complete"] is False
    assert told["files"]


def test_signals_before_the_work_end_it_too_and_are_left_as_they_were(tmp_path, monkeypatch, capsys):
    def loading(options):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    monkeypatch.setattr(run_command, "_load", loading)
    source, before = photo(tmp_path / "p.png"), signal.getsignal(signal.SIGTERM)
    assert run(source) == 143
    assert capsys.readouterr().err == "deid: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_hangup_that_is_ignored_stays_ignored():
    program = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from deid_diffusion.cli import signals_end\n"
        "with signals_end(): os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=CHECKOUT)
    assert done.stdout == "alive\n", done.stderr


def test_outputs_keep_the_time_of_their_source_when_asked_to(tmp_path, painter):
    for name in ("a.png", "sub/b.png"):
        os.utime(photo(tmp_path / "in" / name), (1e9, 1.1e9))
    words = [tmp_path / "in", "--preview", "side-by-side"]
    assert run(*words, "-o", tmp_path / "plain") == 0
    assert (tmp_path / "plain/a.png").stat().st_mtime > 1.2e9
    assert run(*words, "-o", tmp_path / "out", "--keep-times") == 0
    for name in ("a.png", "a_before_after.png", "sub/b.png"):
        assert (tmp_path / "out" / name).stat().st_mtime == 1.1e9
    painter.calls.clear()
    assert run(*words, "-o", tmp_path / "out", "--keep-times") == 0
    assert painter.calls == []


def test_pictures_of_more_pixels_than_allowed_are_refused_and_say_how_to_go_on(tmp_path, weights, capsys):
    photo(tmp_path / "in" / "big.png", side=40)
    photo(tmp_path / "in" / "small.png")
    assert run(tmp_path / "in", "--method", "blank", "--max-pixels", 24 * 24) == 1
    out, err = capsys.readouterr()
    assert "small.png" in out
    assert "wanted at most 576 pixels, got 40 x 40; if you trust it, raise the limit: --max-pixels N" in err
    assert run(tmp_path / "in", "--method", "blank", "--max-pixels", 1600) == 0
    assert "done before" in capsys.readouterr().out


def test_the_package_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "deid_diffusion", "--help"], capture_output=True, text=True, timeout=60, cwd=CHECKOUT
    )
    assert (done.returncode, done.stdout) == (0, cli.usage())


def test_the_help_of_run_names_its_options(capsys):
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name}" in said for name in ("--exclude", "--keep-times", "--max-pixels", "--report"))


def test_names_cannot_do_things_to_the_terminal(tmp_path, painter, capsys):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "red\x1b[31m\nline.jpg").write_bytes(b"x")
    assert run(tmp_path / "in", "-o", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "deid: failed: red\\x1b[31m line.jpg\n" in err
    assert "\x1b" not in err
