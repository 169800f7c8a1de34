import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.cli.show import print_result
from deid_diffusion.faces.references import References
from deid_diffusion.imaging.pictures import PictureError, load_picture
from deid_diffusion.jobs.journal import NAME, Journal, describe, fingerprint
from deid_diffusion.jobs.report import write_report
from deid_diffusion.jobs.run import JobsStopped, plan, run
from deid_diffusion.settings import Settings

from ..fakes import RATES, Inverter, photo


@pytest.fixture
def tree(tmp_path):
    for name in ("a.png", "b.png", "sub/c.png"):
        photo(tmp_path / "in" / name)
    return tmp_path / "in"


def work(tree, anonymize, settings=None, overwrite=False):
    """What `deid run tree -o out` does -> (results, names the anonymizer was called with)."""
    out = tree.parent / "out"
    planned = plan([tree], out)
    results = []
    try:
        for result in run(planned.jobs, anonymize, settings or Settings(), Journal(planned.folder), overwrite):
            results.append(result)
    finally:
        leftovers = list(out.rglob("*.part"))
        assert leftovers == []
    return results


def test_each_picture_is_written_with_its_report(tree):
    anonymize = Inverter()
    results = work(tree, anonymize)
    assert [result.job.name for result in results] == ["a.png", "b.png", "sub/c.png"]
    assert all(result.ok and len(result.faces) == 1 for result in results)
    assert set(results[0].seconds) == {"detect", "inpaint", "write"}
    before, after = load_picture(tree / "sub/c.png").image, load_picture(tree.parent / "out/sub/c.png").image
    assert (after[2:10, 2:10] == 255 - before[2:10, 2:10]).all()
    assert (after[10:] == before[10:]).all()


def test_a_bad_file_is_listed_and_the_rest_goes_on(tree):
    (tree / "aa.jpg").write_text("I am no picture")
    (tree / "ab.jpg").write_bytes(b"")
    whole = photo(tree / "ac.jpg", side=200)
    whole.write_bytes(whole.read_bytes()[:3000])
    results = work(tree, Inverter())
    assert [result.job.name for result in results if not result.ok] == ["aa.jpg", "ab.jpg", "ac.jpg"]
    assert len(results) == 6
    assert not (tree.parent / "out" / "aa.jpg").exists()
    assert [result.job.name for result in work(tree, Inverter()) if not result.ok] == ["aa.jpg", "ab.jpg", "ac.jpg"]


def test_a_crash_of_the_model_is_a_bad_file_too(tree):
    results = work(tree, Inverter(stop_at=1, error=RuntimeError("out of luck")))
    assert [result.ok for result in results] == [True, False, False]
    assert "RuntimeError: out of luck" in results[1].error


def test_a_second_run_does_nothing_and_still_reports_everything(tree):
    first = work(tree, Inverter())
    again = Inverter()
    second = work(tree, again)
    assert again.calls == []
    assert all(result.earlier for result in second)
    assert [result.faces for result in second] == [result.faces for result in first]


def test_an_interrupted_run_goes_on_where_it_stopped(tree):
    with pytest.raises(KeyboardInterrupt):
        work(tree, Inverter(stop_at=1, error=KeyboardInterrupt()))
    assert sorted(path.name for path in (tree.parent / "out").rglob("*.png")) == ["a.png"]
    again = Inverter()
    assert len(work(tree, again)) == 3
    assert [call[0] for call in again.calls] == ["b.png", "c.png"]


def test_an_output_whose_line_was_lost_in_a_crash_is_made_again(tree):
    work(tree, Inverter())
    journal = tree.parent / "out" / NAME
    rows = journal.read_text().splitlines()
    journal.write_text("\n".join(row for row in rows if '"b.png", "state": "done"' not in row) + '\n{"out": "sub/c')
    again = Inverter()
    assert all(result.ok for result in work(tree, again))
    assert [call[0] for call in again.calls] == ["b.png"]


@pytest.mark.parametrize("row", ['{"out": "b.png"}', '{"out": "b.png", "state": "done"}', "[1]", "7", '"x"', "{"])
def test_an_output_whose_line_was_garbled_is_made_again(tree, row):
    work(tree, Inverter())
    journal = tree.parent / "out" / NAME
    rows = [line for line in journal.read_text().splitlines() if '"b.png", "state": "done"' not in line]
    journal.write_text("\n".join([*rows, row]))
    again = Inverter()
    assert all(result.ok for result in work(tree, again))
    assert [call[0] for call in again.calls] == ["b.png"]


def test_a_changed_input_is_made_again(tree):
    work(tree, Inverter())
    photo(tree / "b.png", side=40)
    again = Inverter()
    assert all(result.ok for result in work(tree, again))
    assert [call[0] for call in again.calls] == ["b.png"]


def test_other_settings_ask_for_overwrite(tree):
    work(tree, Inverter())
    other = Settings(steps=4)
    assert all("--overwrite" in result.error for result in work(tree, Inverter(), other))
    again = Inverter()
    assert all(result.ok for result in work(tree, again, other, overwrite=True))
    assert len(again.calls) == 3
    assert all(result.earlier for result in work(tree, Inverter(), other))


def test_an_interrupted_overwrite_goes_on_without_it(tree):
    work(tree, Inverter())
    with pytest.raises(KeyboardInterrupt):
        work(tree, Inverter(stop_at=1, error=KeyboardInterrupt()), Settings(steps=4), overwrite=True)
    again = Inverter()
    assert all(result.ok for result in work(tree, again, Settings(steps=4)))
    assert [call[0] for call in again.calls] == ["b.png", "c.png"]


def test_what_somebody_else_put_there_is_neither_trusted_nor_overwritten(tree):
    stranger = photo(tree.parent / "out" / "b.png", side=31)
    before = stranger.read_bytes()
    results = work(tree, Inverter())
    assert [result.ok for result in results] == [False, True, True]
    assert "exists already" in results[0].error
    assert stranger.read_bytes() == before
    # An original copied over a finished output must not pass as one.
    (tree.parent / "out" / "a.png").write_bytes((tree / "sub/c.png").read_bytes() + b" ")
    assert "was changed" in next(result for result in work(tree, Inverter()) if result.job.name == "a.png").error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_stops_the_run(tree, number):
    full = PictureError("no room")
    full.__cause__ = OSError(number, "no room")
    anonymize = Inverter(stop_at=1, error=full)
    with pytest.raises(JobsStopped, match="no room"):
        work(tree, anonymize)
    assert len(work(tree, Inverter())) == 3


def test_a_folder_that_cannot_be_written_stops_before_the_first_picture(tree):
    anonymize = Inverter()
    planned = plan([tree], tree.parent / "out" / "below")
    (tree.parent / "out").write_text("a file where the folder should be")
    with pytest.raises(JobsStopped, match="wanted to write there"):
        list(run(planned.jobs, anonymize, journal=Journal(planned.folder)))
    assert anonymize.calls == []


def test_work_can_be_spread_by_another_map(tree):
    def backwards(function, jobs):
        return (function(job) for job in reversed(list(jobs)))

    planned = plan([tree], tree.parent / "out")
    results = list(run(planned.jobs, Inverter(), map=backwards))
    assert [result.job.name for result in results] == ["sub/c.png", "b.png", "a.png"]


def test_previews_and_boxes_reach_the_anonymizer(tree):
    planned = plan([tree / "a.png"], tree.parent / "x.png", seed=5, previews=True)
    anonymize, boxes = Inverter(), ((1.0, 2.0, 3.0, 4.0),)
    [result] = run([replace(planned.jobs[0], boxes=boxes)], anonymize)
    assert result.ok
    assert anonymize.calls[0][1:3] == (5, boxes)
    with Image.open(tree.parent / "x_before_after.png") as both:
        assert both.size == (48, 24)


def test_neither_journal_nor_description_holds_an_embedding(tree):
    people = np.full((2, 3), 0.123456, np.float32)
    settings = Settings(keep=References(people, RATES))
    work(tree, Inverter(), settings)
    text = (tree.parent / "out" / NAME).read_text() + json.dumps(describe(settings), default=str)
    assert "0.123" not in text
    assert describe(settings)["keep"].startswith("photos: 2, ")
    assert fingerprint(settings) != fingerprint(Settings(keep=References(people * 2, RATES)))


def test_what_was_not_taken_over_is_said_and_reported(tmp_path, capsys):
    Image.new("CMYK", (24, 24), (10, 20, 30, 40)).save(tmp_path / "a.jpg")
    results = list(run(plan([tmp_path / "a.jpg"], tmp_path / "out").jobs, Inverter()))
    print_result(results[0])
    said = "CMYK, which becomes RGB where the picture is encoded anew"
    assert capsys.readouterr().err == f"deid: {tmp_path / 'a.jpg'}: {said}\n"
    write_report(tmp_path / "report.json", results, {})
    (file,) = json.loads((tmp_path / "report.json").read_text())["files"]
    assert file["notices"] == [said]


class Meddler(Inverter):
    """Lets somebody do something to the files while a picture is worked on: after it was read, or before."""

    def __init__(self, name, meddle, times=1, early=False):
        super().__init__()
        self.name, self.meddle, self.times, self.early = name, meddle, times, early

    def __call__(self, image, *given, **named):
        meant = image.name == self.name and self.times > 0
        self.times -= meant
        if meant and self.early:
            self.meddle(image)
        result = super().__call__(image, *given, **named)
        if meant and not self.early:
            self.meddle(image)
        return result


@pytest.mark.parametrize("early", [True, False])
def test_an_input_that_vanishes_while_it_is_worked_on_is_one_failure(tree, early):
    results = work(tree, Meddler("b.png", lambda path: path.unlink(), early=early))
    assert [result.ok for result in results] == [True, False, True]
    assert "found none" in results[1].error
    assert not (tree.parent / "out" / "b.png").exists()


def test_an_input_that_vanishes_before_its_turn_is_one_failure(tree):
    results = work(tree, Meddler("a.png", lambda path: shutil.rmtree(tree / "sub")))
    assert [result.ok for result in results] == [True, True, False]
    assert all(result.earlier == result.ok for result in work(tree, Inverter()))


def test_an_input_replaced_while_it_is_worked_on_is_done_anew(tree):
    meddler = Meddler("b.png", lambda path: photo(path, side=40))
    assert all(result.ok for result in work(tree, meddler))
    assert load_picture(tree.parent / "out" / "b.png").image.shape == (40, 40, 3)
    assert [call[0] for call in meddler.calls].count("b.png") == 2
    again = Inverter()
    assert all(result.earlier for result in work(tree, again))


def replaced_in_secret(path):
    """Other bytes, by another inode, of the same size and time."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the checksum of the last chunk, which no decoder minds
    path.with_name("new").write_bytes(data)
    os.replace(path.with_name("new"), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touched(path):
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


@pytest.mark.parametrize("meddle", [replaced_in_secret, touched])
def test_an_input_that_goes_on_changing_fails_and_is_done_by_the_next_run(tree, meddle):
    result = work(tree, Meddler("b.png", meddle, times=9))[1]
    assert "wanted a file that stays as it is" in result.error
    assert not (tree.parent / "out" / "b.png").exists()
    again = Inverter()
    assert all(result.ok for result in work(tree, again))
    assert [call[0] for call in again.calls] == ["b.png"]


def test_bytes_exchanged_between_two_runs_are_not_done_before(tree):
    work(tree, Inverter())
    replaced_in_secret(tree / "b.png")
    again = Inverter()
    work(tree, again)
    assert [call[0] for call in again.calls] == ["b.png"]


def test_a_tree_that_was_moved_is_done_before(tree):
    work(tree, Inverter())
    shutil.copytree(tree, tree.parent / "copy")  # keeps times, as cp -p and rsync do
    shutil.rmtree(tree)
    (tree.parent / "copy").rename(tree)
    again = Inverter()
    assert all(result.earlier for result in work(tree, again))
    assert again.calls == []


def test_boxes_are_not_used_on_a_picture_that_came_in_their_place(tree):
    job = replace(plan([tree / "b.png"], tree.parent / "out.png").jobs[0], boxes=((2.0, 2.0, 10.0, 10.0),))
    meddler = Meddler("b.png", lambda path: photo(path, side=40))
    [result] = run([job], meddler)
    assert "wanted a file that stays as it is" in result.error
    assert len(meddler.calls) == 1
    assert not job.out_path.exists()
