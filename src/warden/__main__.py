"""`python -m warden` is `warden`."""

import sys

from warden.cli.start import main

sys.exit(main())
