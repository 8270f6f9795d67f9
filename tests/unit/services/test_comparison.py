"""The agreement of a shadow with what serves: means, limits of agreement, the worst case, what only one judged."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.main import main
from appliance.config.layout import StateLayout
from appliance.journal.journal import Journal
from appliance.journal.records import Assessment, ModelVersion
from appliance.services.comparison import Comparison, compare
from appliance.spool.spool import Spool
from tests.unit.journal.makers import received, register


class Site:
    """A model with a shadow, and images that both have judged."""

    def __init__(self, root: Path) -> None:
        self.layout = StateLayout(root)
        self.journal = Journal(self.layout.journal)
        self.journal.activations.activate("brain", ModelVersion("1.0.0", "float32"), 50)
        self.journal.activations.shadow("brain", ModelVersion("1.1.0", "float16"), 60)
        self._images = 0

    def judged(self, active: float | None, shadow: float | None) -> None:
        """One image, and the volume that each found in it; ``None``: the side failed."""
        self._images += 1
        register(
            self.journal,
            received(f"1.{self._images}", series=f"2.{self._images}"),
            [Assessment("brain", "1.0.0", None), Assessment("brain", "1.1.0", None, True)],
        )
        for value in (active, shadow):
            job = self.journal.jobs.claim("worker-0", 200, 60)
            assert job is not None
            if value is None:
                self.journal.jobs.fail(
                    job, "worker-0", 210, "defect", "ValueError at x.py:1", retry_at=None, max_attempts=1
                )
            else:
                self.journal.jobs.succeed(
                    job, "worker-0", 210, result_json=result(value), results=[], destinations={}, stages={}
                )

    def compare(self, newest: int = 100) -> Comparison:
        spell = self.journal.comparisons.spell("brain")
        assert spell is not None
        return compare(self.journal, Spool(self.layout.spool), spell, newest=newest)


def result(volume: float) -> str:
    def measurement(meaning: str, value: float, unit: str) -> dict[str, object]:
        return {"concept": {"value": "1", "scheme": "SCT", "meaning": meaning}, "value": value, "unit": unit}

    return json.dumps(
        {
            "findings": [{"tracking_id": "brain Brain", "measurements": [measurement("Volume", volume, "ml")]}],
            "overall": [measurement("Ratio", volume / 1000, "{ratio}")],
        }
    )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.journal.close()


def test_figures(site: Site) -> None:
    differences = [2.0, -1.0, 5.0]
    for difference in differences:
        site.judged(1000.0, 1000.0 + difference)
    found = site.compare()
    volume, ratio = found.measurements
    assert (volume.what, volume.unit, volume.images) == ("brain Brain: Volume", "ml", 3)
    assert (volume.active_mean, volume.shadow_mean, volume.mean_difference) == (1000, 1002, 2)
    spread = 1.96 * statistics.stdev(differences)
    assert volume.limits == pytest.approx((2 - spread, 2 + spread))
    assert (volume.worst_difference, volume.worst_jobs) == (5, (5, 6))
    assert (ratio.what, ratio.mean_difference) == ("overall: Ratio", pytest.approx(0.002))
    assert (found.both, found.waiting, found.differences) == (3, 0, ())


def test_one_image_has_no_limits(site: Site) -> None:
    site.judged(1000.0, 990.0)
    volume = site.compare().measurements[0]
    assert (volume.mean_difference, volume.limits) == (-10, None)


def test_what_only_one_side_judged(site: Site) -> None:
    site.judged(1000.0, None)
    site.judged(1000.0, 1000.0)
    found = site.compare()
    assert found.both == 1
    assert found.active == {"succeeded": 2, "unsuitable": 0, "failed": 0}
    assert found.shadow == {"succeeded": 1, "unsuitable": 0, "failed": 1}
    (difference,) = found.differences
    assert (difference.active_job, difference.active) == (1, "succeeded")
    assert (difference.shadow_job, difference.shadow) == (2, "failed: ValueError at x.py:1")


def test_only_the_newest(site: Site) -> None:
    site.judged(1000.0, 2000.0)
    site.judged(1000.0, 1001.0)
    assert site.compare(newest=1).measurements[0].mean_difference == 1


def test_as_the_command_prints_it(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.judged(1000.0, 1002.0)
    site.judged(1000.0, 1006.0)
    site.judged(1000.0, None)
    assert main(["models", "compare", "brain", "--state-dir", str(site.layout.root)]) == 0
    printed = capsys.readouterr().out
    assert "active 1.0.0, float32                        3           0       0" in printed
    assert "shadow 1.1.0, float16                        2           0       1" in printed
    assert "judged by both: 2; the shadow still has to judge: 0" in printed
    assert "+4  -1.544 … +9.544; worst +6 (jobs 3 and 4)" in printed
    assert "(jobs 5 and 6)\n        active succeeded\n        shadow failed: ValueError at x.py:1" in printed
    assert main(["models", "compare", "brain", "--json", "--state-dir", str(site.layout.root)]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["measurements"][0]["worst_jobs"] == [3, 4]
    assert read["spell"]["shadow"] == {"version": "1.1.0", "precision": "float16"}


def test_without_a_shadow(site: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["models", "compare", "lung", "--state-dir", str(site.layout.root)]) == 74
    assert "models activate lung/VERSION --shadow" in capsys.readouterr().err
    assert main(["models", "compare", "lung", "--state-dir", str(tmp_path / "elsewhere")]) == 74
