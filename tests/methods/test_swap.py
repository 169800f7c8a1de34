"""Everybody becomes one person of the bank: who that is, what moves the faces there, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deid_diffusion import cli
from deid_diffusion.cli import run as run_command
from deid_diffusion.faces.attributes import Attributes
from deid_diffusion.methods.swap import SwapTarget, same_target
from deid_diffusion.methods.targets import TrackTargets
from deid_diffusion.pipelines.face_inpaint import FaceInpaintPipeline
from deid_diffusion.pipelines.id_encoder import embed
from deid_diffusion.pipelines.repulsion import attract
from deid_diffusion.settings import Settings
from deid_diffusion.types import Outcome
from tests.fakes import photo
from tests.test_anonymizer import ALWAYS, FAST, ONE, TWO, build, covered, picture
from tests.tiny import DIM, tiny_bank, tiny_pipeline

SWAP = replace(FAST, method="swap", target=4)


def test_every_face_becomes_the_person_that_was_named():
    image = picture()
    result = build(TWO)(image, settings=SWAP)
    assert [one.outcome for one in result.faces] == [Outcome.REPLACED] * 2
    assert all(one.reason.startswith("person 4 of the bank, similarity ") for one in result.faces)
    assert all(covered(image, result.image, one) for one in TWO)


def test_attraction_brings_faces_nearer_to_their_target():
    pipe = tiny_pipeline()
    crop, mask = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 32, 32)
    mask[..., 6:26, 6:26] = 1
    target = embed(pipe.id_encoder, -torch.ones(1, 3, 32, 32)).detach()
    reached = []
    for scale in (0.0, 30.0, 300.0):
        pull = replace(attract(pipe.id_encoder, target, scale, views=2), stop=1.0)
        given = {"image": crop, "mask_image": mask, "energies": [pull], "generator": torch.Generator().manual_seed(1)}
        new = pipe(**given, num_inference_steps=2, output_type="pt").images
        reached.append((embed(pipe.id_encoder, new * 2 - 1) * target).sum().item())
    assert reached[0] < reached[1] < reached[2]


def test_the_source_repels_only_after_a_round_that_was_too_like_it(monkeypatch):
    calls, real = [], FaceInpaintPipeline.__call__

    def watched(self, **given):
        calls.append((given["repulsion"].scale, len(given["energies"])))
        return real(self, **given)

    monkeypatch.setattr(FaceInpaintPipeline, "__call__", watched)
    settings = replace(SWAP, repulsion={"scale": 30.0}, tries=3, candidates=1)
    result = build(ONE, ALWAYS)(picture(), settings=settings)
    assert calls == [(0.0, 1), (30.0, 1), (60.0, 1)]
    assert result.faces[0].outcome is Outcome.REDACTED
    assert "too similar" in result.faces[0].reason


def test_a_random_person_follows_from_the_seed_and_is_one_for_all_pictures():
    anonymize = build(TWO)
    settings = replace(SWAP, target="random")
    people = {one.reason.split(",")[0] for one in anonymize(picture(), 3, None, settings).faces}
    assert len(people) == 1
    mapped = {
        one.reason.split(",")[0] for r in anonymize.map([picture()] * 3, 3, settings=settings) for one in r.faces
    }
    assert mapped == people
    assert len({same_target(settings, anonymize.bank, seed).target for seed in range(30)}) > 6


def test_later_rounds_stay_with_the_random_person():
    anonymize = build(ONE, ALWAYS)
    settings = replace(SWAP, target="random", tries=2)
    tasks = anonymize.choose_targets(anonymize.analyze(picture()), seed=5, settings=settings)
    policy = SwapTarget(0.0, anonymize.bank, "random")
    assert {target.number for target in tasks[0].targets} == {policy.choose(tasks[0], 1, 0, ()).number}


def test_all_people_of_a_clip_become_that_person():
    bank = tiny_bank()
    tracks = TrackTargets(1.0, bank, seed=1, people=SwapTarget(1.0, bank, 7))
    numbers = {tracks.add(n, n, Attributes(age=30.0), np.eye(DIM, dtype=np.float32)[n]).number for n in range(5)}
    assert numbers == {7}


@pytest.mark.parametrize("target", [-1, "anybody", 1.5, True, None])
def test_what_is_no_target_is_refused(target):
    with pytest.raises(ValueError, match="target must be random or a number of the bank, got"):
        Settings(target=target)


def test_a_person_that_the_bank_has_not_is_refused():
    with pytest.raises(ValueError, match="target must be random or a number from 0 to 11, of the 12 people"):
        build(ONE)(picture(), method="swap", target=12)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "swap", "--target", "12"), "a number from 0 to 11"),
        (("--method", "swap", "--target", "-1"), "target"),
        (("--method", "swap", "--target", "somebody"), "wanted random or a whole number >= 0, got 'somebody'"),
        (("--target", "3"), "--target is for --method swap, got --method inpaint"),
        (("--method", "blur", "--attraction", "3"), "--attraction is for --method swap"),
    ],
)
def test_the_command_line_refuses_it_before_anything_is_written(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.setattr(run_command, "_load", lambda options: build(ONE))
    photo(tmp_path / "a.png")
    try:
        code = cli.main(["run", str(tmp_path / "a.png"), *words])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_run_says_whom_it_drew_and_goes_on_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_command, "_load", lambda options: build(ONE))
    for name in "ab":
        photo(tmp_path / "in" / f"{name}.png", side=320)
    words = [
        "run",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        "--method",
        "swap",
        "--steps",
        "1",
        "--seed",
        "5",
    ]
    assert cli.main(words) == 0
    first = capsys.readouterr()
    assert "everybody becomes person" in first.err
    assert cli.main(words) == 0
    again = capsys.readouterr()
    assert again.out.count("done before") == 2
    assert first.err.splitlines()[0] == again.err.splitlines()[0]
    other = (int(first.err.split("person ")[1].split()[0]) + 1) % 12
    assert cli.main([*words, "--target", str(other)]) == 1
    assert "was made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factor", "yaw", "age"), [(1.0, 7.5, 30.0), (2.0, 15.0, 40.0), (0.5, 11.25, 35.0), (0.0, 9.4, 34.0)]
)
def test_attributes_pass_as_fine_as_the_user_says(factor, yaw, age):
    found = Attributes(yaw_deg=9.4, age=34.0).quantize(factor=factor)
    assert (found.yaw_deg, found.age) == pytest.approx((yaw, age))
