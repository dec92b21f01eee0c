"""``python -m cdam_fast`` is ``cdam-fast``."""

from cdam_fast.cli import main

raise SystemExit(main())
