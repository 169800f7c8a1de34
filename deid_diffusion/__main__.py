"""Makes `python -m deid_diffusion` what `deid` is."""

from deid_diffusion.cli import main

raise SystemExit(main())
