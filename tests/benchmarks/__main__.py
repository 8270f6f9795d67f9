"""``scripts/bench``: measure, print a table, and keep it as JSON when asked to."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from tests.benchmarks.deliver import measure_deliver
from tests.benchmarks.engines import measure_engines
from tests.benchmarks.ingest import measure_ingest
from tests.benchmarks.latency import KINDS, measure_latency
from tests.benchmarks.memory import measure_memory
from tests.benchmarks.scale import measure_scale
from tests.benchmarks.signs import measure_signs


def main() -> int:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--save", action="store_true", help="keep the figures in tests/benchmarks/<benchmark>.json")
    benchmarks = parser.add_subparsers(required=True, dest="benchmark")
    latency = benchmarks.add_parser(
        "latency", help="last byte in → SR at the PACS, for one CR image and long MR and CT series, stage by stage"
    )
    latency.add_argument("kinds", nargs="*", metavar="KIND", help=f"only these kinds of study: {', '.join(KINDS)}")
    latency.add_argument("--repeat", type=int, default=5, metavar="N", help="studies of each kind (default 5)")
    latency.add_argument(
        "--per-second", type=float, default=40.0, metavar="N",
        help="images that a scanner sends while it reconstructs; 0: series come all at once only (default 40)",
    )  # fmt: skip
    latency.add_argument(
        "--settle", type=float, default=1.0, metavar="S", help="assembly.settle_s of the appliance (default 1)"
    )
    ingest = benchmarks.add_parser("ingest", help="reception, beside dcmtk, Orthanc and the raw limit of this machine")
    ingest.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default 5)")
    ingest.add_argument("--count", type=int, default=300, metavar="N", help="CT slices in each (default 300)")
    deliver = benchmarks.add_parser("deliver", help="results and images out, beside dcmtk's storescu")
    deliver.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default 5)")
    deliver.add_argument("--count", type=int, default=300, metavar="N", help="objects in each (default 300)")
    scale = benchmarks.add_parser("scale", help="work in a journal with a million instances, beside an empty one")
    scale.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default 5)")
    scale.add_argument("--count", type=int, default=200, metavar="N", help="CT slices in each (default 200)")
    scale.add_argument("--instances", type=int, default=1_000_000, metavar="N", help="that it holds (default 1000000)")
    scale.add_argument("--waiting", type=int, default=10_000, metavar="N", help="studies that wait (default 10000)")
    signs = benchmarks.add_parser("signs", help="last image → series complete, by the sign that says so")
    signs.add_argument("--rounds", type=int, default=10, metavar="N", help="series in each way (default 10)")
    memory = benchmarks.add_parser("memory", help="of each role, while thousands of small studies go through")
    memory.add_argument("--studies", type=int, default=10_000, metavar="N", help="how many (default 10000)")
    engines = benchmarks.add_parser(
        "engines", help="each model on each backend and in each precision, next to the bare runtime; and its engines"
    )
    engines.add_argument("names", nargs="*", metavar="NAME", help="only these models")
    engines.add_argument("--seconds", type=float, default=20.0, metavar="S", help="for each line (default 20)")
    parsed = parser.parse_args()
    measured: dict[str, object]
    match parsed.benchmark:
        case "ingest":
            measured = measure_ingest(parsed.rounds, parsed.count)
        case "deliver":
            measured = measure_deliver(parsed.rounds, parsed.count)
        case "scale":
            measured = measure_scale(parsed.rounds, parsed.count, parsed.instances, parsed.waiting)
        case "signs":
            measured = measure_signs(parsed.rounds)
        case "memory":
            measured = measure_memory(parsed.studies)
        case "engines":
            measured = measure_engines(parsed.seconds, parsed.names)
        case _:
            measured = measure_latency(parsed.repeat, parsed.kinds, parsed.per_second, parsed.settle)
    figures = {"machine": machine(), "figures": measured}
    if parsed.save:
        path = Path(__file__).parent / f"{parsed.benchmark}.json"
        path.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"kept in {path.name}")
    return 0


def machine() -> dict[str, object]:
    """What was measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main())
