import os
from dataclasses import replace
from pathlib import Path

import pytest

from deid_diffusion.jobs.journal import NAME, Journal
from deid_diffusion.jobs.places import check_report, linked_outputs
from deid_diffusion.jobs.plan import PlanError, file_seed, plan

from ..fakes import photo


def outputs(planned, root):
    return {job.name: job.out_path.relative_to(root).as_posix() for job in planned.jobs}


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("photo.jpg", "photo_anon.jpg"),
        ("PHOTO.JPG", "PHOTO_anon.JPG"),
        ("a.b.c.png", "a.b.c_anon.png"),
        ("phone.heic", "phone_anon.jpg"),
        ("still.gif", "still_anon.png"),
        ("no_suffix", "no_suffix_anon.jpg"),
        ("notes.txt", "notes_anon.jpg"),
    ],
)
def test_a_file_goes_beside_itself(tmp_path, name, output):
    (tmp_path / name).write_bytes(b"x")
    assert outputs(plan([tmp_path / name]), tmp_path) == {name: output}


def test_a_file_goes_to_the_name_or_the_folder_that_is_given(tmp_path):
    source = photo(tmp_path / "photo.jpg")
    assert plan([source], tmp_path / "other.png").jobs[0].out_path == tmp_path / "other.png"
    assert plan([source], tmp_path / "out").jobs[0].out_path == tmp_path / "out" / "photo.jpg"
    (tmp_path / "odd.jpg").mkdir()
    assert plan([source], tmp_path / "odd.jpg").jobs[0].out_path == tmp_path / "odd.jpg" / "photo.jpg"


def test_a_tree_is_mirrored_and_what_is_no_picture_is_counted(tmp_path):
    tree = tmp_path / "tree"
    for name in ("a.jpg", "deep/er/b.png", ".hidden.jpg", ".cache/c.jpg", "out/old.jpg"):
        photo(tree / name)
    (tree / "notes.txt").write_text("x")
    (tree / "clip.mp4").write_text("x")
    (tree / "gone.jpg").symlink_to(tree / "nowhere.jpg")
    (tree / "loop").symlink_to(tree)
    planned = plan([tree], tree / "out")
    same = ("a.jpg", "clip.mp4", "deep/er/b.png")
    assert outputs(planned, tree / "out") == dict(zip(same, same, strict=True))
    assert [job.is_clip for job in planned.jobs] == [False, True, False]
    left_out = {item.path.name for item in planned.skipped}
    assert left_out == {".hidden.jpg", ".cache", "notes.txt", "gone.jpg", "loop"}
    assert planned.folder == tree / "out"
    assert planned.keeps_list
    assert plan([tree]).folder == tmp_path / "tree_anon"


def test_two_folders_into_one_keep_their_names_apart(tmp_path):
    photo(tmp_path / "x" / "1.jpg")
    photo(tmp_path / "y" / "1.jpg")
    planned = plan([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    assert set(outputs(planned, tmp_path / "out").values()) == {"x/1.jpg", "y/1.jpg"}


def test_a_phone_picture_does_not_take_the_place_of_its_jpeg(tmp_path):
    for name in ("IMG_1.HEIC", "IMG_1.jpg"):
        photo(tmp_path / "in" / "x.png").rename(tmp_path / "in" / name)
    places = [job.out_path.name for job in plan([tmp_path / "in"], tmp_path / "out").jobs]
    assert len(set(places)) == 2


def test_seeds_hang_on_the_seed_and_the_name_only(tmp_path):
    for name in ("a.jpg", "b.jpg", "sub/a.jpg"):
        photo(tmp_path / "in" / name)
    seeds = {job.name: job.seed for job in plan([tmp_path / "in"], tmp_path / "out", seed=7).jobs}
    assert len(set(seeds.values())) == 3
    photo(tmp_path / "in" / "a.jpg", side=30)
    (tmp_path / "in" / "b.jpg").unlink()
    again = {job.name: job.seed for job in plan([tmp_path / "in"], tmp_path / "elsewhere", seed=7).jobs}
    assert again == {name: seed for name, seed in seeds.items() if name != "b.jpg"}
    assert file_seed(8, tmp_path / "a") != file_seed(7, tmp_path / "a")
    assert plan([tmp_path / "in" / "a.jpg"], seed=7).jobs[0].seed == 7


def test_a_clip_goes_beside_itself_or_to_a_name_or_a_folder(tmp_path):
    source = tmp_path / "clip.MOV"
    source.write_bytes(b"x")
    assert plan([source], previews=True).jobs[0].out_path == tmp_path / "clip_anon.MOV"
    assert plan([source], previews=True).jobs[0].preview_path == tmp_path / "clip_anon_before_after.mp4"
    assert plan([source], tmp_path / "other.mkv").jobs[0].out_path == tmp_path / "other.mkv"
    assert plan([source], tmp_path / "out").jobs[0].out_path == tmp_path / "out" / "clip.MOV"


def bad_plan(name, tmp_path):
    source = photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.jpg").symlink_to(source)
    os.link(source, tmp_path / "hard.jpg")
    both = [photo(tmp_path / "x" / "1.jpg"), photo(tmp_path / "y" / "1.jpg")]
    (tmp_path / "other.jpg").symlink_to(both[0])
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.jpg").symlink_to(both[0])
    (tmp_path / "folders" / "a.jpg").mkdir(parents=True)
    (tmp_path / "z").symlink_to(tmp_path / "x")
    os.mkfifo(tmp_path / "pipe.jpg")
    return {
        "nothing": ([], None),
        "no such file": ([tmp_path / "nope.jpg"], None),
        "no pictures": ([tmp_path / "empty"], None),
        "onto itself": ([source], source),
        "onto itself by a link": ([source], tmp_path / "link.jpg"),
        "onto itself by a hard link": ([source], tmp_path / "hard.jpg"),
        "folder onto itself": ([tmp_path / "in"], tmp_path / "in"),
        "file into its own folder": ([source], tmp_path / "in"),
        "onto a link": ([source], tmp_path / "other.jpg"),
        "onto a link to nowhere": ([source], tmp_path / "nowhere.jpg"),
        "into a link to nowhere": ([tmp_path / "in"], tmp_path / "nowhere.jpg"),
        "below a file": ([tmp_path / "in"], both[0] / "out"),
        "below a device": ([source], Path("/dev/null/x.jpg")),
        "onto a pipe": ([source], tmp_path / "pipe.jpg"),
        "onto a device": ([source], Path("/dev/null")),
        "a folder onto a device": ([tmp_path / "in"], Path("/dev/null")),
        "a link among the outputs": ([tmp_path / "in"], tmp_path / "linked"),
        "a folder among the outputs": ([tmp_path / "in"], tmp_path / "folders"),
        "too long": ([photo(tmp_path / f"{'n' * 250}.jpg")], None),
        "too long a name": ([source], tmp_path / f"{'n' * 252}.jpg"),
        "a NUL": ([source], tmp_path / "a\0.jpg"),
        "a dot at the end": ([source], tmp_path / "other.jpg."),
        "a blank at the end": ([source], tmp_path / "other.jpg "),
        "another suffix": ([source], tmp_path / "out.jp2"),
        "another suffix in capitals": ([source], tmp_path / "out.PDF"),
        "a folder with a picture's name": ([tmp_path / "in"], tmp_path / "out.jpg"),
        "two spellings onto one": ([tmp_path / "x", tmp_path / "z"], tmp_path / "out"),
        "itself and another": ([both[0], both[1]], tmp_path / "y"),
        "two onto one": (both, tmp_path / "out"),
        "out is a file": ([tmp_path / "in"], both[0]),
    }[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "got none"),
        ("no such file", "found nothing"),
        ("no pictures", "found none in it"),
        ("onto itself", "got the input"),
        ("onto itself by a link", "got a link"),
        ("onto itself by a hard link", "got the input"),
        ("folder onto itself", "got the input folder"),
        ("file into its own folder", "got the input"),
        ("onto a link", "got a link"),
        ("onto a link to nowhere", "got a link"),
        ("into a link to nowhere", "got a link"),
        ("below a file", "1.jpg, which is none"),
        ("below a device", "/dev/null, which is none"),
        ("onto a pipe", "got a pipe"),
        ("onto a device", "got a device"),
        ("a folder onto a device", "got a device"),
        ("a link among the outputs", "got a link"),
        ("a folder among the outputs", "got a folder"),
        ("too long", "a name of 259 bytes"),
        ("too long a name", "wanted a path"),
        ("a NUL", "wanted a path"),
        ("a dot at the end", "a dot or a blank"),
        ("a blank at the end", "a dot or a blank"),
        ("another suffix", r"out of \.jpg .*, got \.jp2"),
        ("another suffix in capitals", r"got \.pdf"),
        ("a folder with a picture's name", "got the name of a picture"),
        ("two spellings onto one", "would both become"),
        ("itself and another", "got the input|would both become"),
        ("two onto one", "would both become"),
        ("out is a file", "wanted a folder"),
    ],
)
def test_what_cannot_be_begun_is_refused_before_anything_is_written(tmp_path, name, said):
    inputs, out = bad_plan(name, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PlanError, match=said):
        plan(inputs, out)
    assert sorted(tmp_path.rglob("*")) == before


def reasons(planned, root):
    return {item.path.relative_to(root).as_posix(): item.reason for item in planned.skipped}


@pytest.mark.parametrize("known", [True, False])
def test_outputs_of_an_earlier_run_are_not_taken_for_inputs(tmp_path, known):
    source, output = photo(tmp_path / "a.jpg"), photo(tmp_path / "a_anon.jpg")
    more = [photo(tmp_path / name) for name in ("b.jpg", "a_anon_before_after.png", "a_anon_anon.jpg")]
    if known:
        Journal(tmp_path).add([(output, {"state": "done"})])
    planned = plan([source, output, *more])
    assert [job.in_path for job in planned.jobs] == [source, more[0]]
    names = ("a_anon.jpg", "a_anon_before_after.png", "a_anon_anon.jpg")
    assert reasons(planned, tmp_path) == dict.fromkeys(names, "written by this tool")
    assert (tmp_path / NAME).exists() == known
    assert not planned.keeps_list


def test_a_picture_that_was_named_is_not_overwritten_for_its_name(tmp_path):
    source, output = photo(tmp_path / "a.jpg"), photo(tmp_path / "a_anon.jpg")
    with pytest.raises(PlanError, match=r"got the output of .*--exclude"):
        plan([source, output], overwrite=True)
    planned = plan([source, output], overwrite=True, exclude=["*_anon.*"])
    assert [job.in_path for job in planned.jobs] == [source]
    Journal(tmp_path).add([(output, {"state": "done"})])
    assert [job.in_path for job in plan([source, output], overwrite=True).jobs] == [source]


def test_folders_of_outputs_are_not_taken_for_inputs(tmp_path):
    for name in ("a/1.jpg", "a_anon/1.jpg", "b/1.jpg", "b_anon/1.jpg"):
        photo(tmp_path / name)
    planned = plan(sorted(path for path in tmp_path.iterdir() if path.is_dir()))
    assert [job.in_path.parent.name for job in planned.jobs] == ["a", "b"]
    assert set(reasons(planned, tmp_path)) == {"a_anon/1.jpg", "b_anon/1.jpg"}
    Journal(tmp_path / "a" / "earlier").add([(photo(tmp_path / "a/earlier/sub/1.jpg"), {"state": "done"})])
    planned = plan([tmp_path / "a"], tmp_path / "new")
    assert [job.name for job in planned.jobs] == ["1.jpg"]
    assert reasons(planned, tmp_path)["a/earlier/sub/1.jpg"] == "written by this tool"


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.png", ["a.jpg", "sub/a_anon.jpg", "thumbs/c.jpg"]),
        ("*_anon.*", ["a.jpg", "b.png", "thumbs/c.jpg"]),
        ("thumbs", ["a.jpg", "b.png", "sub/a_anon.jpg"]),
        ("thumbs/", ["a.jpg", "b.png", "sub/a_anon.jpg"]),
        ("sub/*", ["a.jpg", "b.png", "thumbs/c.jpg"]),
        ("[ab].*", ["sub/a_anon.jpg", "thumbs/c.jpg"]),
        ("A.JPG", ["a.jpg", "b.png", "sub/a_anon.jpg", "thumbs/c.jpg"]),
    ],
)
def test_what_fits_a_pattern_is_left_out(tmp_path, pattern, left):
    for name in ("a.jpg", "b.png", "sub/a_anon.jpg", "thumbs/c.jpg"):
        photo(tmp_path / "in" / name)
    planned = plan([tmp_path / "in"], tmp_path / "out", exclude=[pattern])
    assert [job.name for job in planned.jobs] == left
    assert set(reasons(planned, tmp_path).values()) <= {"excluded"}
    assert (len(left) == 4) == (not planned.skipped)


def test_patterns_that_leave_nothing_are_refused(tmp_path):
    source = photo(tmp_path / "a.jpg")
    for path in (source, tmp_path):
        with pytest.raises(PlanError, match=r"that is not left out \(excluded\)"):
            plan([path], exclude=["a.*"])


def test_two_previews_of_one_name_are_refused(tmp_path):
    photo(tmp_path / "in" / "a.jpg")
    photo(tmp_path / "in" / "a.png")
    assert len(plan([tmp_path / "in"]).jobs) == 2
    with pytest.raises(PlanError, match="would both become .*a_before_after.png"):
        plan([tmp_path / "in"], previews=True)
    photo(tmp_path / "in" / "a.png").rename(tmp_path / "in" / "a_before_after.png")
    with pytest.raises(PlanError, match="would both become .*a_before_after.png"):
        plan([tmp_path / "in"], previews=True)


def test_a_link_in_the_place_of_the_journal_is_refused(tmp_path):
    photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "in_anon").mkdir()
    (tmp_path / "in_anon" / NAME).symlink_to("/dev/null")
    with pytest.raises(PlanError, match="got a link"):
        plan([tmp_path / "in"])


def test_the_place_of_a_folder_with_a_suffix_may_be_made_before(tmp_path):
    source = photo(tmp_path / "a.jpg")
    (tmp_path / "out.v2").mkdir()
    assert plan([source], tmp_path / "out.v2").jobs[0].out_path == tmp_path / "out.v2" / "a.jpg"
    assert plan([source], tmp_path / "2024.05.17").jobs[0].out_path == tmp_path / "2024.05.17" / "a.jpg"


def bad_report(name, tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere.json")
    os.link(tmp_path / "in" / "a.jpg", tmp_path / "hard.json")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder.json").mkdir()
    return {
        "output": tmp_path / "out" / "b",
        "preview": tmp_path / "in" / ".." / "out" / "a_before_after.png",
        "input": tmp_path / "in" / "b",
        "input by a hard link": tmp_path / "hard.json",
        "boxes": tmp_path / "boxes.json",
        "notes": tmp_path / "notes.txt",
        "journal": tmp_path / "out" / NAME,
        "link": tmp_path / "link.json",
        "device": Path("/dev/null"),
        "below a file": tmp_path / "notes.txt" / "new" / "report.json",
        "folder": tmp_path / "folder.json",
        "too long": tmp_path / f"{'n' * 251}.json",
        "a dot at the end": tmp_path / "report.json.",
    }[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("output", "place of an output"),
        ("preview", "a picture's|place of an output"),
        ("input", "one that the run reads"),
        ("input by a hard link", "one that the run reads"),
        ("boxes", "one that the run reads"),
        ("notes", "got another file"),
        ("journal", "place of an output"),
        ("link", "got a link"),
        ("device", "got a device"),
        ("below a file", "notes.txt, which is none"),
        ("folder", "got a folder"),
        ("too long", "256 bytes|characters"),
        ("a dot at the end", "a dot or a blank"),
    ],
)
def test_a_report_takes_nobodys_place(tmp_path, name, said):
    photo(tmp_path / "in" / "a.jpg")
    photo(tmp_path / "in" / "b.png").rename(tmp_path / "in" / "b")
    boxes = tmp_path / "boxes.json"
    boxes.write_text("{}")
    planned = plan([tmp_path / "in" / "a.jpg", tmp_path / "in" / "b"], tmp_path / "out", previews=True)
    planned = replace(planned, jobs=(planned.jobs[0], replace(planned.jobs[1], out_path=tmp_path / "out" / "b")))
    with pytest.raises(PlanError, match=said):
        check_report(bad_report(name, tmp_path), planned, [boxes])


def test_an_earlier_report_and_an_empty_file_are_replaced(tmp_path):
    planned = plan([photo(tmp_path / "a.jpg")])
    for text in ("", '{\n"versions": {}}', '{"versions": {}}', '{\n  "versions"'):
        (tmp_path / "report.json").write_text(text)
        check_report(tmp_path / "report.json", planned)


def test_outputs_that_are_hard_links_are_named(tmp_path):
    source, other = photo(tmp_path / "a.jpg"), photo(tmp_path / "mine.jpg")
    assert linked_outputs(plan([source]).jobs) == []
    os.link(other, tmp_path / "a_anon.jpg")
    assert linked_outputs(plan([source]).jobs) == [tmp_path / "a_anon.jpg"]
