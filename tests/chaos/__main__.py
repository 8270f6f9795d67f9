"""``scripts/chaos``: run a campaign, audit it, print both, and keep the figures when asked to."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.__main__ import machine
from tests.chaos.audit import Audit, table
from tests.chaos.campaign import Figures, run_campaign
from tests.chaos.preload import NO_COMPILER
from tests.support.studies import REPOSITORY


def main() -> int:
    """Run a campaign; the exit code is 1 when anything was lost, doubled or stuck."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="how long faults come (default 5)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the schedule of faults (default 1)")
    parser.add_argument("--kill-every", type=float, default=2.5, metavar="S", help="mean time between kills, seconds")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="an empty folder for all that the campaign leaves")
    parser.add_argument("--save", action="store_true", help="keep the figures in tests/chaos/campaign.json")
    parsed = parser.parse_args()
    if NO_COMPILER is not None:
        print(NO_COMPILER, file=sys.stderr)
        return 2
    cache = REPOSITORY / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="chaos-") as name:
        root: Path = parsed.keep or Path(name)
        root.mkdir(parents=True, exist_ok=True)
        figures = run_campaign(root, parsed.minutes * 60, parsed.seed, kill_every_s=parsed.kill_every)
        findings = Audit(root).findings()
    print(_words(figures))
    print(table(findings))
    if parsed.save:
        kept = {"machine": machine(), "campaign": asdict(figures), "audit": [asdict(found) for found in findings]}
        path = Path(__file__).with_name("campaign.json")
        path.write_text(json.dumps(kept, indent=2) + "\n")
    return int(not all(found.is_clean for found in findings))


def _words(figures: Figures) -> str:
    kills = ", ".join(f"{name} {count}" for name, count in sorted(figures.kills.items()))
    faults = ", ".join(f"{name} {count}" for name, count in figures.faults.items())
    return (
        f"seed {figures.seed}: {figures.seconds:.0f} s of faults, drained in {figures.drained_in_s:.0f} s\n"
        f"{sum(figures.kills.values())} kills ({kills}), {figures.starts} starts of the appliance\n"
        f"{figures.disk_faults_met} failed disk operations; faults: {faults}\n"
        f"{figures.offered} images offered, {figures.promised} promised, {figures.sent_again} sent again; "
        f"{figures.connections_to_pacs} connections to the PACS\n"
    )


if __name__ == "__main__":
    sys.exit(main())
