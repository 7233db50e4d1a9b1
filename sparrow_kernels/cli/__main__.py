"""`python -m sparrow_kernels.cli`, for where no `sparrow` script is installed."""

import sys

from sparrow_kernels.cli.main import main

sys.exit(main())
