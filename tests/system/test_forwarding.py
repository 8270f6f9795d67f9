"""Images through the whole appliance to a PACS, with ``kill -9`` on the way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.dicom_factory import Subject, ct_series, ct_voxels, write_datasets
from tests.support.peers import FakePacs
from tests.support.result_files import data_set_bytes
from tests.support.scanner import storescu
from tests.support.waiting import wait_for

CT = "1.2.840.10008.5.1.4.1.1.2"
_AHEAD = 5
"""Objects that may be sent again for each kill: the one under way, and those whose answers wait for their commit."""


def test_no_image_is_lost_and_none_sent_again_but_what_was_under_way(daemons: list[Daemon], tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    with FakePacs(sop_classes=[CT]) as pacs:
        daemon = Daemon(
            tmp_path,
            destinations=[
                {
                    "kind": "dicom",
                    "name": "pacs",
                    "ae_title": "PACS",
                    "host": "127.0.0.1",
                    "port": pacs.port,
                    "results": [],
                    "forward": {"modalities": ["CT"]},
                    "retry": {"first_s": 0.1, "longest_s": 0.5},
                }
            ],
            settings={"models": {"folder": str(tmp_path / "engines")}},
        )
        daemons.append(daemon)
        daemon.start()
        paths = write_datasets(ct_series(ct_voxels(300, 64, 64), subject=Subject(seed="1")), tmp_path / "images")
        assert storescu(daemon.dicom_port, paths)
        kills = 0
        for role, arrived in (("sender", 40), ("receiver", 80), ("sender", 120), ("sender", 200)):
            wait_for(lambda: len(pacs.received) >= arrived and daemon.pid(role), 60, what=f"{arrived} images")  # noqa: B023
            daemon.kill(role)
            kills += role == "sender"
        tally = daemon.wait_until_idle(jobs=0, timeout_s=60)
        assert tally["delivery"]["delivered"] == 300
        content = {uid: data_set for uid, _, data_set in pacs.received}
        assert sorted(content.values()) == sorted(map(data_set_bytes, paths))
        again = Counter(pacs.uids()).total() - len(content)
        assert again <= kills * _AHEAD
