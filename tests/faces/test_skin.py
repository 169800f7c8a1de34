import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab

from deid_diffusion.compositing.colour import below_eyes, dim_halo, match_skin
from deid_diffusion.faces.skin import individual_typology_angle, lab_from_rgb, linear_from_lab, read_light, skin_mask
from tests.tiny import tiny_shape

POINTS = torch.from_numpy(tiny_shape().mean[None, :, :2] * 64 + [128, 110]).float()


def test_lab_is_scikit_images_lab():
    rgb = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
    got = lab_from_rgb(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(got - rgb2lab(rgb)).max() < 0.05


def test_a_flat_face_has_its_colour_and_no_direction():
    rgb = torch.tensor([0.8, 0.6, 0.5])
    light = read_light((rgb * 2 - 1)[None, :, None, None].expand(1, 3, 256, 256), POINTS)[0]
    assert light[:3].numpy() == pytest.approx(rgb2lab(rgb.numpy()), abs=0.1)
    assert light[3:].abs().max() < 1e-3


@pytest.mark.parametrize(("axis", "column", "sign"), [(-1, 3, 1), (-2, 4, -1)])
def test_the_brighter_side_is_where_the_light_comes_from(axis, column, sign):
    ramp = torch.linspace(-0.5, 0.5, 256)
    image = (ramp[None, :] if axis == -1 else ramp[:, None]).expand(256, 256)[None, None].expand(1, 3, 256, 256)
    light = read_light(image, POINTS)[0]
    assert light[column] * sign > 0.1
    assert abs(light[7 - column]) < 0.03
    assert torch.allclose(read_light(image.flip(axis), POINTS)[0, column], -light[column], atol=0.05)


def test_the_skin_is_where_its_colour_is_read():
    """Eyes, lips and what is beside the face do not count: blackened, they change nothing."""
    mask = skin_mask(POINTS, 256)
    assert 0.02 < mask.mean() < 0.5
    for x, y in (POINTS[0, [468, 105]].mean(0), POINTS[0, [0, 17]].mean(0), torch.tensor([5.0, 5.0])):
        assert mask[0, 0, int(y), int(x)] == 0
    painted = torch.where(F.avg_pool2d(mask, 9, 1, 4) > 0, 0.2, -0.9).expand(1, 3, 256, 256)
    assert torch.allclose(read_light(painted, POINTS), read_light(torch.full_like(painted, 0.2), POINTS), atol=0.01)


@pytest.mark.parametrize(("lab", "degrees"), [((60, 10, 10), 45.0), ((50, 10, 10), 0.0), ((40, 10, 10), -45.0)])
def test_typology_angle(lab, degrees):
    assert individual_typology_angle(np.array(lab, float)) == pytest.approx(degrees)


@pytest.mark.parametrize("lab", [(50.0, 10.0, 15.0), (20.0, 0.0, 0.0), (85.0, -5.0, 20.0)])
def test_linear_from_lab_is_the_inverse_of_lab_from_rgb(lab):
    linear = linear_from_lab(torch.tensor([lab]))
    display = torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert lab_from_rgb(display[:, :, None, None]).flatten().tolist() == pytest.approx(lab, abs=0.1)


def test_matched_skin_has_the_colour_asked_for_and_only_under_the_mask():
    mesh = POINTS
    images = 0.05 * torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., :250] = 1
    wanted = torch.tensor([[56.0, 6.0, 8.0]])
    lit = match_skin(images, mesh, wanted, mask)
    assert (read_light(lit, mesh)[:, :3] - wanted).abs().max() < 1.5
    assert torch.equal(lit[..., 250:], images[..., 250:])
    left = match_skin(images, mesh, torch.full((1, 3), float("nan")), mask)
    assert torch.allclose(left, images, atol=1e-4)
    # A gain has a bound: black is not made white.
    assert match_skin(images - 0.7, mesh, torch.tensor([[95.0, 0, 0]]), mask).mean() < 0


def test_below_the_eyes_turns_with_the_face():
    upright = below_eyes(POINTS, 256)[0, 0]
    eyes, mouth = (POINTS[0, pair].mean(0).int().tolist() for pair in ([468, 473], [61, 291]))
    assert upright[eyes[1] - 30, eyes[0]] == 0
    assert upright[eyes[1] - 30, 5] == 0
    assert upright[mouth[1], 5] == 1
    flipped = below_eyes(256 - POINTS, 256)[0, 0]
    assert torch.allclose(flipped, upright.flip(0, 1), atol=1e-4)


def painted_beside(backdrop: float, glow: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A face of skin on a backdrop, with a glow beside its jaw: the picture, and where the glow is."""
    images = torch.full((1, 3, 256, 256), backdrop)
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    face = ((x - 128) / 80) ** 2 + ((y - 132) / 95) ** 2 < 1
    images[0, :, face] = torch.tensor([0.2, -0.1, -0.25])[:, None]
    beside = (((x - 128) / 95) ** 2 + ((y - 132) / 110) ** 2 < 1) & ~face & (y > 150)
    images[0, :, beside] = glow
    return images, beside


def test_a_glow_beside_the_jaw_is_no_brighter_than_its_surroundings():
    images, beside = painted_beside(backdrop=0.6, glow=0.95)
    known, mask = torch.full_like(images, 0.6), torch.zeros(1, 1, 256, 256)
    mask[..., 28:248, 28:228] = 1
    known[:, :, mask[0, 0] > 0] = 1.0  # the source under the mask: not to be read
    dimmed = dim_halo(images, POINTS, known, mask, torch.ones_like(mask))
    assert dimmed[0, :, beside].max() == pytest.approx(0.6, abs=0.02)
    assert torch.allclose(dimmed[0, :, ~beside], images[0, :, ~beside], atol=1e-4)
    bound = dim_halo(images, POINTS, known, mask, torch.zeros_like(mask))
    assert torch.equal(bound, images)
    # White next to it may shine as white as it is.
    known[:, :, :, 228:] = 1.0
    beside[:, :210] = False
    shone = dim_halo(images, POINTS, known, mask, torch.ones_like(mask))
    assert shone[0, :, beside].min() > 0.9


def test_skin_in_the_dark_is_not_taken_for_a_glow():
    images, _ = painted_beside(backdrop=-0.9, glow=-0.9)
    mask = torch.ones(1, 1, 256, 256)
    mask[..., :10] = 0
    assert torch.equal(dim_halo(images, POINTS, torch.full_like(images, -0.9), mask, mask), images)


def test_a_gain_for_the_skin_leaves_the_backdrop_beside_it():
    images, beside = painted_beside(backdrop=0.6, glow=0.6)
    mask, wanted = torch.ones(1, 1, 256, 256), torch.tensor([[70.0, 10.0, 14.0]])
    everywhere = match_skin(images, POINTS, wanted, mask)
    careful = match_skin(images, POINTS, wanted, mask, unsure=mask)
    assert (everywhere - images)[0, :, beside].abs().min() > 0.1
    assert (careful - images)[0, :, beside].abs().mean() < 0.01
    assert (read_light(careful, POINTS)[:, :3] - wanted).abs().max() < 2
