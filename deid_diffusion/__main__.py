"""`python -m deid_diffusion` is `deid`."""

from deid_diffusion.cli import main

raise SystemExit(main())
