"""``scripts/fuzz``: feed the appliance hostile input, and print what came of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from tests.benchmarks.__main__ import machine
from tests.fuzz.campaign import TARGETS, Campaign, Result


def main() -> int:
    """Run a campaign of each target; 1 when there were crashes or hangs."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--cases", type=int, default=10_000, metavar="N", help="for each target (default 10000)")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="the same seed gives the same cases (default 1)"
    )
    parser.add_argument("--guided", action="store_true", help="let coverage guide the cases (atheris)")
    parser.add_argument("--save", action="store_true", help="keep the figures in tests/fuzz/fuzz.json")
    parser.add_argument(
        "--defects",
        type=Path,
        default=Path(__file__).parents[2] / ".cache" / "fuzz",
        metavar="FOLDER",
        help="where inputs that failed are kept, each with a report",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    results = []
    print("| target | cases | crashes | hangs | peak memory | slowest case | cases/s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in arguments.targets or TARGETS:
        campaign = Campaign(
            name, cases=arguments.cases, seed=arguments.seed, defects=arguments.defects, guided=arguments.guided
        )
        results.append(campaign.run())
        print(_line(results[-1]), flush=True)
    if arguments.save:
        _keep(arguments.seed, results)
    failed = sum(found.crashes + found.hangs for found in results)
    if failed:
        print(f"what failed is kept in {arguments.defects}")
    return 1 if failed else 0


def _keep(seed: int, results: list[Result]) -> None:
    """Keep these figures beside those of other targets."""
    path = Path(__file__).parent / "fuzz.json"
    kept = json.loads(path.read_text()) if path.exists() else {"figures": {}}
    kept["machine"] = machine()
    for found in results:
        kept["figures"][found.target] = {"seed": seed, **dataclasses.asdict(found)}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def _line(found: Result) -> str:
    return (
        f"| {found.target} | {found.cases} | {found.crashes} | {found.hangs} | +{found.peak_mib:.0f} MiB "
        f"| {found.slowest_ms:.0f} ms | {found.cases / found.seconds:.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
