"""What the patches of one face share from frame to frame, so that they do not boil, pump or pop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .texture import Texture, draw_texture

EVERY = 4  # frames between two measurements of one kind: surroundings hardly change between them
EASED = 0.25  # of the way to what was measured last, that a value goes in each frame


class Steady:
    """The finish of one face in a clip: measured now and then, eased in between; skin keeps its texture.

    It is kept by whoever composites the clip, one for each track, and given to each frame's patch.
    """

    def __init__(self, seed: int) -> None:
        """Nothing was measured yet.

        Args:
            seed: of the texture, which sticks to the face; grain is new in each frame, as a sensor's.
        """
        self.seed = seed
        self._frames = dict[str, int]()
        self._measured = dict[str, np.ndarray]()
        self._values = dict[str, np.ndarray]()
        self._texture: Texture | None = None

    def eased(self, name: str, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """A value that goes towards what is measured, instead of jumping there.

        Args:
            name: of the value.
            measure: gives (N, ...) numbers of one shape; asked every `EVERY` frames.

        Returns:
            (N, ...) float32.
        """
        count = self._frames.get(name, 0)
        self._frames[name] = count + 1
        if count % EVERY == 0:
            self._measured[name] = np.asarray(measure(), np.float32)
        wanted, value = self._measured[name], self._values.get(name)
        if value is None or value.shape != wanted.shape:
            value = wanted
        self._values[name] = value + EASED * (wanted - value)
        return self._values[name]

    def texture(self, side: int) -> Texture:
        """Noise for the face's skin, square, drawn once.

        Args:
            side: in pixels, of the face's crop in the picture; that of the first frame is kept.
        """
        if self._texture is None:
            self._texture = draw_texture((side, side), np.random.default_rng(self.seed))
        return self._texture
