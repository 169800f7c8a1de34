"""The detail stage's training: pairs from a folder of crops, a few steps, and what comes of them in the pipeline."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from deid_diffusion.models.loading import load_pipeline
from deid_diffusion.pipelines.conditioning import ATTRIBUTE_NAMES
from deid_diffusion.training import detail, detail_pairs
from deid_diffusion.training.detail_data import Pairs, spoiled
from deid_diffusion.training.detail_losses import band_losses, bands, roughness_ratio
from deid_diffusion.training.losses import PerceptualLoss
from deid_diffusion.training.shards import Shards
from tests.tiny import tiny_pipeline, tiny_shape


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base")
    tiny_pipeline(256).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, base) -> str:
    """Of two shards of two and of one crop; the third is of the hold-out."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("pairs")
    shards, place = Shards(data), 60 * tiny_shape().mean + [128, 112, 0]
    large = Image.fromarray(astronaut()[0:230, 110:340]).resize((512, 512))
    for keys in (["a", "b"], ["c"]):
        files = []
        for number, key in enumerate(keys):
            file = io.BytesIO()
            Image.fromarray(np.roll(np.asarray(large), 5 * number, 1)).save(file, "WEBP", quality=90)
            files.append((key, file.getvalue()))
        labels = {
            "key": np.array(keys), "split": np.array(["holdout" if key == "c" else "train" for key in keys]),
            "landmarks": np.stack([place] * len(keys)).astype(np.float16),
            "attributes": np.full((len(keys), len(ATTRIBUTE_NAMES)), 200, np.float32),  # out of range, as labels are
        }  # fmt: skip
        labels["attributes"][:, 3] = np.nan
        shards.add({"": [], "512": files}, labels)
    given = ["--data", str(data), "--base", base, "--backend", "torch", "--out", str(out)]
    detail_pairs.main([*given, "--shards", "1"])
    first = (out / "pairs-0000-base.npy").read_bytes()
    detail_pairs.main(given)
    assert (out / "pairs-0000-base.npy").read_bytes() == first
    return str(out)


def test_pairs_show_the_same_crop_once_sharp_and_once_as_the_base_makes_it(pairs):
    read = Pairs(pairs)
    assert {train: len(rows) for train, rows in read.rows.items()} == {True: 4, False: 2}  # two of each crop
    batch = read.draw(4, 512, torch.Generator().manual_seed(0), train=False)
    known = (batch.mask == 0).expand_as(batch.target)
    assert 0.05 < batch.mask.mean() < 0.9
    assert torch.equal(batch.laid[known], batch.target[known])
    assert (batch.laid - batch.target)[~known].abs().mean() > 0.05  # an untrained base has another face
    again = read.draw(4, 512, torch.Generator().manual_seed(0), train=False)
    assert torch.equal(batch.laid, again.laid)
    patch = read.draw(2, 96, torch.Generator().manual_seed(1))
    assert patch.target.shape == (2, 3, 96, 96)
    assert (patch.laid - patch.target)[(patch.mask == 0).expand_as(patch.target)].abs().max() == 0
    with pytest.raises(ValueError, match="at most 512 px"):
        read.draw(1, 544, torch.Generator())
    with pytest.raises(FileNotFoundError, match="detail_pairs"):
        Pairs(Path(pairs) / "nowhere")
    with pytest.raises(FileNotFoundError, match="synthesize"):
        detail_pairs.main(["--data", pairs, "--out", pairs])


def test_bands_add_up_and_each_holds_its_own_octave():
    x = torch.arange(128.0)
    for octave, period in enumerate((3.0, 8.0, 16.0)):
        wave = torch.sin(2 * torch.pi * x / period).expand(1, 3, 128, 128)
        found = bands(wave)
        power = [float(band[..., 24:-24, 24:-24].square().mean()) for band in found]
        assert power.index(max(power)) == octave
    picture = torch.rand(1, 3, 64, 64)
    smooth = picture - sum(bands(picture))
    assert float(smooth.var()) < 0.02 * float(picture.var())


def test_roughness_asks_for_as_much_detail_and_not_for_the_same():
    """Moved detail is as rough and of other values; detail that is missing is neither."""
    noise = torch.Generator().manual_seed(0)
    target = torch.randn(2, 3, 64, 64, generator=noise)
    moved, flat = target.roll(7, -1), torch.zeros_like(target)
    mask = torch.ones(2, 1, 64, 64)
    (values, rough), (flat_values, flat_rough) = band_losses(moved, target, mask), band_losses(flat, target, mask)
    assert rough < 0.1 * flat_rough
    assert values > flat_values  # what makes a squared or absolute error alone prefer wax
    assert roughness_ratio(target / 2, target, mask) == pytest.approx([-1] * 3, abs=0.15)
    # Outside the mask nothing counts.
    mask[..., :32] = 0
    beside = torch.where(mask > 0, target, 1 - target)
    assert roughness_ratio(beside[..., 32:], target[..., 32:], mask[..., 32:]) == pytest.approx([0] * 3, abs=1e-5)


def test_spoiling_changes_pictures_as_often_as_it_says():
    picture = np.random.default_rng(0).uniform(0, 255, (64, 64, 3)).astype(np.float32)
    results = [spoiled(picture, np.random.default_rng(seed)) for seed in range(40)]
    changed = sum(not np.array_equal(one, picture) for one in results)
    assert 20 <= changed <= 36  # of 40, 0.65^3 = 0.27 are left as they are
    assert all(one.dtype == np.float32 and one.min() >= 0 and one.max() <= 255 for one in results)


def test_the_network_overfits_one_batch_starting_at_the_base(pairs, features):
    torch.manual_seed(0)
    batch = Pairs(pairs).draw(1, 96, torch.Generator().manual_seed(2))
    network, judge = detail.build_network((16, 16)), PerceptualLoss(features)
    assert torch.equal(detail.detailed(network, batch, torch.Generator()), batch.laid)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = detail.detail_loss(network, None, batch, judge, detail.Options(), torch.Generator().manual_seed(0))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_what_the_command_leaves_opens_as_a_part_of_the_pipeline(pairs, features, base, tmp_path):
    out = tmp_path / "run"
    given = ["--data", pairs, "--out", str(out), "--perceptual", features, "--channels", "16,16", "--window", "64",
             "--batch", "1", "--steps", "2", "--minutes", "5", "--warmup", "1", "--judge-every", "1"]  # fmt: skip
    detail.main(given)
    detail.main([*given, "--resume"])
    metrics = json.loads((out / "training.json").read_text())
    assert metrics["step"] == 4
    assert len(metrics["detail_log2_bands"]) == len(metrics["base_log2_bands"]) == 3
    assert Image.open(out / "sheet.png").size == (3 * 64, 8 * 64)
    network = type(detail.build_network((16, 16))).from_pretrained(out / "detail", dtype=torch.float32)
    pipe = load_pipeline(base, detail=network)
    assert (pipe.size, pipe.base_size) == (512, 256)
    pipe.set_progress_bar_config(disable=True)
    image, mask = torch.rand(1, 3, 512, 512), torch.ones(1, 1, 512, 512)
    made = pipe(image, mask, num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="pt")
    assert made.images.shape == (1, 3, 512, 512)
