import os

import pytest

from deid_diffusion.jobs.journal import NAME, Journal
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
    left_out = {path.name for path in planned.skipped}
    assert left_out == {".hidden.jpg", ".cache", "notes.txt", "gone.jpg", "loop"}
    assert planned.folder == tree / "out"
    assert planned.keeps_journal
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
    assert plan([source], previews=True).jobs[0].preview_path is None
    assert plan([source], tmp_path / "other.mkv").jobs[0].out_path == tmp_path / "other.mkv"
    assert plan([source], tmp_path / "out").jobs[0].out_path == tmp_path / "out" / "clip.MOV"


def bad_plan(name, tmp_path):
    source = photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.jpg").symlink_to(source)
    os.link(source, tmp_path / "hard.jpg")
    both = [photo(tmp_path / "x" / "1.jpg"), photo(tmp_path / "y" / "1.jpg")]
    return {
        "nothing": ([], None),
        "no such file": ([tmp_path / "nope.jpg"], None),
        "no pictures": ([tmp_path / "empty"], None),
        "onto itself": ([source], source),
        "onto itself by a link": ([source], tmp_path / "link.jpg"),
        "onto itself by a hard link": ([source], tmp_path / "hard.jpg"),
        "folder onto itself": ([tmp_path / "in"], tmp_path / "in"),
        "file into its own folder": ([source], tmp_path / "in"),
        "onto another input": ([source, photo(tmp_path / "in" / "a_anon.jpg")], None),
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
        ("onto itself by a link", "got the input"),
        ("onto itself by a hard link", "got the input"),
        ("folder onto itself", "got the input folder"),
        ("file into its own folder", "got the input"),
        ("onto another input", "got the input"),
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


def test_outputs_of_an_interrupted_run_are_not_taken_for_inputs(tmp_path):
    source, output = photo(tmp_path / "a.jpg"), photo(tmp_path / "a_anon.jpg")
    Journal(tmp_path).add([(output, {"state": "done"})])
    planned = plan([source, output])
    assert [job.in_path for job in planned.jobs] == [source]
    assert (tmp_path / NAME).exists()
    assert not planned.keeps_journal
