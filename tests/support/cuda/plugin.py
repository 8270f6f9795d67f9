"""A plugin of pytest: the backend ``tensorrt`` is the one on the double. ``-p tests.support.cuda.plugin``."""

from __future__ import annotations

import os

from appliance.backends.table import BACKENDS

BACKENDS["tensorrt"] = f"tests.support.cuda.backend:{os.environ.get('EMULATED_BACKEND', 'EmulatedTensorRt')}"
