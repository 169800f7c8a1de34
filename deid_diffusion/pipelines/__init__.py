"""Makes the crop-level pipelines importable as `deid_diffusion.pipelines`.

There is one copy of their code: `pipelines/` at the top of a checkout, which is also what goes to the Hub. The wheel
maps it here, beside this file; a checkout does not, and then the search path points at the top-level folder.
"""

from pathlib import Path

_here = Path(__file__).parent
if not (_here / "face_inpaint.py").exists():
    __path__ = [str(_here.parent.parent / "pipelines")]
