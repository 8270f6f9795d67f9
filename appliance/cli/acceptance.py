"""What a machine has to show before it may serve: ``appliance models bench --acceptance``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from appliance.cli.bench_rows import Row
from appliance.pipeline.benchmark import Growth

_LEAST_RATIO = 0.9
"""The aim is 0.95; a machine that does other work at the same time measures a few hundredths too little."""
_NOTHING_MS = 1.0
"""What the checks of a run may take in any case: of a network that takes no longer itself, they are a large part."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked."""

    passed: bool
    what: str
    detail: str

    def __str__(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'}  {self.what}: {self.detail}"


@dataclass(slots=True)
class Acceptance:
    """Collects checks.

    Attributes
    ----------
    unproven
        What could not be checked on this machine, in words.
    """

    checks: list[Check] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)

    def check(self, passed: bool, what: str, detail: str) -> None:
        """Add a check."""
        self.checks.append(Check(passed, what, detail))

    def cannot_prove(self, what: str) -> None:
        """Add something that this machine cannot show."""
        self.unproven.append(what)

    def check_row(self, row: Row) -> None:
        """Parity, the time limit, and the speed next to the bare runtime."""
        where, figures = str(row.subject), row.figures
        failures = "".join(f"; {failure}" for failure in row.verification.failures)
        self.check(row.verification.passed, f"{where}: parity", row.verification.summary() + failures)
        limit_s = row.subject.package.manifest.runtime.time_limit_s
        self.check(
            figures.p99_ms < limit_s * 1e3,
            f"{where}: time",
            f"p50 {figures.p50_ms:.1f} ms, p99 {figures.p99_ms:.1f} ms, limit {limit_s:g} s",
        )
        self.check(
            figures.ratio >= _LEAST_RATIO or figures.p50_ms - figures.bare_p50_ms <= _NOTHING_MS,
            f"{where}: speed next to the bare runtime",
            f"{figures.ratio:.3f}, at least {_LEAST_RATIO:g} or {_NOTHING_MS:g} ms",
        )

    def check_growth(self, where: str, growth: Growth) -> None:
        """That nothing leaks."""
        self.check(
            not growth.leaks,
            f"{where}: memory",
            f"{growth.before_mb} MB before, {growth.after_mb} MB after {growth.images} images, "
            f"at most {growth.allowed_mb} MB more"
            + (
                f"; on the GPU {growth.device_before_mb} and {growth.device_after_mb} MB"
                if growth.device_before_mb
                else ""
            ),
        )

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "not_proven": self.unproven,
        }

    def __str__(self) -> str:
        """A line for each check, and the verdict."""
        failed = sum(not check.passed for check in self.checks)
        lines = [str(check) for check in self.checks] + [f"NOT PROVEN  {what}" for what in self.unproven]
        verdict = f"{'PASSED' if self.passed else 'FAILED'}: {len(self.checks)} checks, {failed} failed"
        return "\n".join([*lines, verdict])

    @property
    def passed(self) -> bool:
        """Whether all that could be checked was right, and something could."""
        return bool(self.checks) and all(check.passed for check in self.checks)
