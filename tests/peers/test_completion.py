"""When a series is complete, with real senders: dcmtk's, and associations that are held open or broken off."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage

from tests.support.dicom_factory import Subject, ct_series, ct_voxels, write_datasets
from tests.support.reception import Reception, model
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("storescu") is None, reason="dcmtk is not installed: apt install dcmtk"),
]


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    reception = Reception(tmp_path / "state", models=[model()])
    reception.assembler.start()
    yield reception
    reception.stop()
    assert not reception.fatal.is_set()


def announcing(count: int, *, said: int | None = None, series: int = 1) -> list[Dataset]:
    """A CT series of ``count`` images that say there are ``said``."""
    datasets = ct_series(ct_voxels(count, 16, 16), subject=Subject(seed="announcing"), series=series)
    for dataset in datasets:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagesInAcquisition = count if said is None else said
    return datasets


def storescu(port: int, *paths: Path, options: tuple[str, ...] = ()) -> None:
    command = ["storescu", "-aec", "APPLIANCE", *options, "127.0.0.1", str(port), *map(str, paths)]
    subprocess.run(command, capture_output=True, timeout=60, check=True)


def associate(port: int) -> Association:
    entity = AE("SCU")
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", port, ae_title="APPLIANCE")
    assert association.is_established
    return association


def send(association: Association, *datasets: Dataset) -> None:
    for dataset in datasets:
        assert association.send_c_store(dataset).Status == 0


def series(reception: Reception) -> list[tuple[object, ...]]:
    return reception.rows("SELECT state, sign, revision, image_count FROM series ORDER BY series_id")


def test_an_association_for_each_image_is_complete_with_the_announced_number(
    reception: Reception, tmp_path: Path
) -> None:
    port = reception.start_node()
    for path in write_datasets(announcing(3), tmp_path / "ct"):
        assert all(found[:2] == ("receiving", "stable age") for found in series(reception))
        storescu(port, path)
    wait_for(lambda: series(reception) == [("complete", "images in acquisition", 1, 3)])


def test_released_with_the_announced_number_nothing_more_is_waited_for(tmp_path: Path) -> None:
    reception = Reception(tmp_path / "state", models=[model()], settle_s=20.0)
    reception.assembler.start()
    write_datasets(announcing(4), tmp_path / "ct")
    storescu(reception.start_node(), tmp_path / "ct", options=("+sd",))
    wait_for(lambda: series(reception) == [("complete", "images in acquisition", 1, 4)])
    reception.stop()


def test_a_series_over_several_associations_waits_for_the_announced_number(
    reception: Reception, tmp_path: Path
) -> None:
    port = reception.start_node()
    paths = write_datasets(announcing(5), tmp_path / "ct")
    storescu(port, *paths[:3])
    wait_for(lambda: reception.node is not None and not reception.node._open)
    [(settle_at,)] = reception.rows("SELECT settle_at FROM series")
    assert settle_at > time.time() + 20, "the release of the first association is not the end"
    storescu(port, *paths[3:])
    wait_for(lambda: series(reception) == [("complete", "images in acquisition", 1, 5)])


def test_broken_off_and_sent_again(reception: Reception, tmp_path: Path) -> None:
    """What came before the end of the connection counts; the sender repeats all of it, as most do."""
    port = reception.start_node()
    datasets = announcing(4)
    first = associate(port)
    send(first, *datasets[:2])
    first.abort()
    wait_for(lambda: reception.node is not None and not reception.node._open)
    assert series(reception) == [("receiving", "stable age", 1, 2)]
    write_datasets(datasets, tmp_path / "ct")
    storescu(port, tmp_path / "ct", options=("+sd",))
    wait_for(lambda: series(reception) == [("complete", "images in acquisition", 1, 4)])
    assert (reception.count("stored"), reception.count("duplicate")) == (4, 2)


def test_what_dcmtk_breaks_off(reception: Reception, tmp_path: Path) -> None:
    """All images have come before the abort: their number says so, and without one the stable age has to."""
    port = reception.start_node()
    for number, said in ((1, None), (2, 0)):
        paths = write_datasets(announcing(3, said=said, series=number), tmp_path / str(number))
        storescu(port, *paths, options=("--abort",))
    wait_for(lambda: reception.metrics.associations.labels("aborted")._value.get() == 2)
    wait_for(
        lambda: series(reception) == [("complete", "images in acquisition", 1, 3), ("receiving", "stable age", 1, 3)]
    )


def test_several_associations_at_once_and_series_mixed_within_each(reception: Reception, tmp_path: Path) -> None:
    """Five senders, each with images of both series: neither is complete before the last of them is done."""
    port = reception.start_node()
    one, two = announcing(18, said=0, series=1), announcing(18, said=0, series=2)
    held = associate(port)
    send(held, one[16], two[16])
    files = [write_datasets(datasets[:16], tmp_path / str(number)) for number, datasets in enumerate((one, two))]
    mixed = [path for pair in zip(*files, strict=True) for path in pair]
    commands = [
        ["storescu", "-aec", "APPLIANCE", "127.0.0.1", str(port), *map(str, mixed[n : n + 8])] for n in (0, 8, 16, 24)
    ]
    senders = [subprocess.Popen(command) for command in commands]
    assert [sender.wait(60) for sender in senders] == [0] * 4
    wait_for(lambda: reception.metrics.associations.labels("released")._value.get() == 4)
    assert series(reception) == [("receiving", "stable age", 1, 17)] * 2
    send(held, one[17], two[17])
    held.release()
    wait_for(lambda: series(reception) == [("complete", "association released", 1, 18)] * 2)


def test_interleaved_series_are_each_complete_by_themselves(reception: Reception) -> None:
    """Long before the association, which brings both, is released."""
    port = reception.start_node()
    one, two = announcing(3, series=1), announcing(2, series=2)
    association = associate(port)
    send(association, one[0], two[0], one[1], two[1])
    wait_for(lambda: [found[0] for found in series(reception)] == ["receiving", "complete"])
    send(association, one[2])
    wait_for(lambda: [found[:2] for found in series(reception)] == [("complete", "images in acquisition")] * 2)
    association.release()


def test_a_wrong_number_only_costs_the_stable_age(tmp_path: Path) -> None:
    reception = Reception(tmp_path / "state", models=[model()], stable_age_s=0.5)
    reception.assembler.start()
    write_datasets(announcing(3, said=300), tmp_path / "ct")
    storescu(reception.start_node(), tmp_path / "ct", options=("+sd",))
    wait_for(lambda: series(reception) == [("complete", "stable age", 1, 3)])
    wait_for(lambda: reception.metrics.short_series._value.get() == 1)
    reception.stop()


def test_the_number_can_be_left_unheeded(tmp_path: Path) -> None:
    reception = Reception(tmp_path / "state", models=[model()], count_announced=False)
    reception.assembler.start()
    write_datasets(announcing(3, said=300), tmp_path / "ct")
    storescu(reception.start_node(), tmp_path / "ct", options=("+sd",))
    wait_for(lambda: series(reception) == [("complete", "association released", 1, 3)])
    reception.stop()


def test_late_images_are_a_revision_that_can_be_seen(reception: Reception, tmp_path: Path) -> None:
    port = reception.start_node()
    paths = write_datasets(announcing(4, said=0), tmp_path / "ct")
    storescu(port, *paths[:2])
    wait_for(lambda: series(reception) == [("complete", "association released", 1, 2)])
    storescu(port, *paths)  # all of them again: two are known, two are late
    wait_for(lambda: series(reception) == [("complete", "association released", 2, 4)])
    assert reception.metrics.revisions._value.get() == 1
    assert reception.metrics.late_images._value.get() == 2
    [view] = reception.journal.overview.series(10)
    assert (view.revision, view.late, view.missing) == (2, 2, 0)
    assert reception.rows("SELECT revision, state FROM job") == [(1, "superseded"), (2, "queued")]
    storescu(port, *paths)  # resent in whole: nothing new, nothing runs again
    wait_for(lambda: reception.node is not None and not reception.node._open)
    assert series(reception) == [("complete", "association released", 2, 4)]
