"""The process that decodes compressed images: what a hostile code stream breaks is this process, and nothing else.

    python -m appliance.imaging.decoder_process SECONDS NICENESS

For each line on its standard input, the path of a file in JSON, it answers with a line of JSON on its standard output:
``shape`` and ``dtype``, and then the stored values in that many bytes; or ``refusal``, ``errno`` or ``defect``. It
ends when its standard input does, so that it outlives no worker, and when an image takes longer than it may.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from appliance.errors import UnsuitableImage
from appliance.imaging.file import read_image_file
from appliance.imaging.pixels import stored_values

_MAX_MEMORY_BYTES = 12 * 1024**3
"""Address space: the largest image that is believed (``MAX_PIXELS``) in 32 bits, and the copies that decoders make."""


def main() -> int:
    """Decode until the standard input ends."""
    limit_s, niceness = float(sys.argv[1]), int(sys.argv[2])
    os.nice(niceness)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        # The kernel ends the process, in the middle of native code as well.
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        head, values = _decode(Path(json.loads(line)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _answer(answers, head, values)
    return 0


def _decode(path: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    try:
        file = read_image_file(path)
        values = np.ascontiguousarray(stored_values(file.dataset, file.raw, file.native))
    except UnsuitableImage as refusal:
        return {"refusal": [refusal.reason, refusal.what, refusal.found, refusal.expected, refusal.mend]}, None
    except MemoryError:
        return {"refusal": ["too-large", "the pixel data take more memory to decode than any image may", None, None,
                            "Send the image uncompressed"]}, None  # fmt: skip
    except OSError as error:
        return {"errno": error.errno}, None
    except Exception as error:  # noqa: BLE001 - told to the worker, which has somebody to tell it to
        return {"defect": type(error).__name__}, None
    return {"shape": values.shape, "dtype": values.dtype.str}, values


def _answer(answers: BinaryIO, head: dict[str, Any], values: np.ndarray | None) -> None:
    answers.write(json.dumps(head).encode() + b"\n")
    if values is not None:
        answers.write(values.data.cast("B"))
    answers.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(0)  # the worker is gone
