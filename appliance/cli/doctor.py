"""``appliance doctor``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from appliance.config.reader import read_settings
from appliance.doctor.file_checks import FileChecks
from appliance.doctor.finding import Finding, Verdict
from appliance.doctor.journal_checks import check_journal
from appliance.doctor.site_checks import check_site
from appliance.errors import JournalError
from appliance.journal.journal import Journal
from appliance.services.role import only_one, state_of
from appliance.services.supervisor import role_names
from appliance.spool.spool import Spool

_WIDTH = 110


def doctor(config: Path | None, state_dir: Path | None, *, repair: bool, deep: bool, as_json: bool) -> int:
    """Examine a state folder; 0 when all is well or was mended, 1 when something needs somebody."""
    settings = read_settings(config)
    layout = state_of(settings, state_dir)
    if not layout.journal.is_file():
        raise JournalError(f"there is no journal in {layout.root}", mend="Name the state folder with --state-dir")
    with ExitStack() as stack:
        if repair:
            for role in role_names(settings):  # and none of them starts meanwhile
                stack.enter_context(only_one(role, layout))
        journal = Journal(layout.journal)
        spool = Spool(layout.spool)
        checks = FileChecks(
            journal, spool, repair=repair, deep=deep, max_instance_bytes=settings.dicom.max_instance_bytes
        )
        findings = list(check_journal(journal.inspection, repair=repair))
        if findings[1].verdict is not Verdict.WRONG:  # a damaged journal says nothing that could be relied on
            findings += checks.run()
            findings += check_site(journal, spool, settings, layout)
        journal.close()
    print(json.dumps([asdict(finding) for finding in findings], indent=2) if as_json else _table(findings))
    return int(any(finding.verdict is Verdict.WRONG for finding in findings))


def _table(findings: Sequence[Finding]) -> str:
    """One line for what is well; what is not has its own paragraph, with what to do."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict.upper():7} {finding.what:22} {finding.found}")
        for name, text in (("expected", finding.expected), ("mend", finding.mend)):
            if text:
                lines += textwrap.wrap(
                    text,
                    _WIDTH,
                    initial_indent=f"{'':8}{name:>22} ",
                    subsequent_indent=" " * 31,
                    break_long_words=False,
                )
    wrong = sum(finding.verdict is Verdict.WRONG for finding in findings)
    return "\n".join([*lines, "", f"{wrong} thing(s) need somebody." if wrong else "All is well."])
