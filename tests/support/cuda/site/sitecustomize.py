"""Run by every Python that starts with this folder on its path: the backend ``tensorrt`` is a class of the tests.

So the roles of a daemon are real processes, each with its own emulated device, and only TensorRT is not.
"""

from __future__ import annotations

import os

from appliance.backends.table import BACKENDS

BACKENDS["tensorrt"] = f"tests.support.cuda.backend:{os.environ['TEST_TENSORRT_BACKEND']}"
