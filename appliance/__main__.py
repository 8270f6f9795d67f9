"""``python -m appliance``: the same as the command ``appliance``."""

import sys

from appliance.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
