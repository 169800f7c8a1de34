"""A feature network of the kind that the losses take, with random weights."""

from itertools import pairwise

import pytest
import torch


class Features(torch.nn.Module):
    """Eight feature maps of a small random network, in the form of the feature file that training takes."""

    def __init__(self):
        super().__init__()
        widths = [3, 8, 8, 8, 8, 8, 8, 8, 8]
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(a, b, 3, stride=2 if n == 0 else 1, padding=1) for n, (a, b) in enumerate(pairwise(widths))
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps = [self.layers[0](image / 128)]
        for layer in self.layers[1:]:
            maps.append(layer(torch.relu(maps[-1])))
        return maps


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("features") / "features.ts.pt"
    torch.manual_seed(0)
    torch.jit.trace(Features(), torch.zeros(1, 3, 64, 64), strict=False).save(str(path))
    return str(path)
