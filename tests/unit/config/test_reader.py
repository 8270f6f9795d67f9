"""Wrong settings: each is named with its line, its key, its value and the rule that it breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.reader import read_settings
from appliance.config.settings import Settings
from appliance.errors import ConfigurationError

WRONG = {
    "an unknown setting": ("dicom:\n  port: 104\n  prot: 4", "line 3: dicom.prot is not a setting. configs/README.md"),
    "an unknown section": ("logging: {level: INFO}\nlog: {}", "line 2: log is not a setting"),
    "an unknown section without content": ("dicmo:\n  # port: 104", "line 1: dicmo is not a setting"),
    "a number that is too large": (
        "dicom:\n  port: 70000",
        "line 2: dicom.port: Input should be less than or equal to 65535 (found 70000)",
    ),
    "a number that is too small": (
        "worker:\n  lease_s: 1",
        "line 2: worker.lease_s: Input should be greater than or equal to 5 (found 1)",
    ),
    "a word for a number": (
        "assembly:\n  settle_s: soon",
        "line 2: assembly.settle_s: Input should be a valid number",
    ),
    "yes for a number": ("dicom:\n  port: yes", "line 2: dicom.port: Input should be a valid integer"),
    "a word for a truth value": (
        "dropfolder:\n  enabled: maybe",
        "line 2: dropfolder.enabled: Input should be a valid boolean",
    ),
    "a number without end": (
        "assembly:\n  stable_age_s: .inf",
        "line 2: assembly.stable_age_s: Input should be a finite",
    ),
    "a number for a name": (
        "dicom:\n  ae_title: 1234",
        "line 2: dicom.ae_title: Input should be a valid string, put it in quotes (found 1234)",
    ),
    "an AE title that is too long": (
        "dicom:\n  ae_title: SEVENTEEN_LETTERS",
        "line 2: dicom.ae_title: String should have at most 16 characters (found 'SEVENTEEN_LETTERS')",
    ),
    "an AE title with a backslash": (
        "dicom:\n  ae_title: 'A\\B'",
        "line 2: dicom.ae_title: String should match pattern",
    ),
    "a choice that there is not": (
        "logging:\n\n  level: TRACE",
        "line 3: logging.level: Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR' (found 'TRACE')",
    ),
    "a list for a section": ("dicom: []", "line 1: dicom: Input should be a valid dictionary"),
    "a missing setting": (
        "destinations:\n- kind: dicom\n  name: pacs\n  host: pacs\n  port: 104",
        "line 2: destinations.0.ae_title is missing. Add it",
    ),
    "a wrong setting in a list": (
        "destinations:\n  - kind: folder\n    name: a\n    path: /srv\n  - kind: folder\n    name: B\n    path: /srv",
        "line 6: destinations.1.name: String should match pattern",
    ),
    "a setting of the other kind": (
        "destinations:\n- kind: folder\n  name: a\n  path: /srv\n  port: 1",
        "line 5: destinations.0.port is not a setting",
    ),
    "a destination of no kind": (
        "destinations:\n- name: a",
        "line 2: destinations.0.kind is missing. Add kind: dicom, or kind: folder",
    ),
    "a destination of unknown kind": (
        "destinations:\n- kind: ftp\n  name: a",
        "does not match any of the expected tags: 'dicom', 'folder'",
    ),
    "a wrong back-off": (
        "destinations:\n- kind: folder\n  name: a\n  path: /srv\n  retry:\n    factor: 0.5",
        "line 6: destinations.0.retry.factor: Input should be greater than or equal to 1 (found 0.5)",
    ),
    "a section that is called like a kind": (
        "models:\n  folder: 7",
        "line 2: models.folder: Input is not a valid path (found 7)",
    ),
    "two destinations of one name": (
        "dicom: {}\ndestinations:\n- {kind: folder, name: a, path: /b}\n- {kind: folder, name: a, path: /c}",
        "line 2: destinations: two destinations are called 'a'",
    ),
    "results into the drop folder": (
        "dropfolder: {path: /srv/in}\ndestinations:\n- {kind: folder, name: a, path: /srv/in/results}",
        "line 2: destinations: 'a' lies in the drop folder, which would take its results away",
    ),
    "one port for two": (
        "dicom:\n  port: 9000\nconsole:\n  port: 9000",
        "line 3: console: dicom.port and console.port are both 9000",
    ),
    "the port of the other's default": ("dicom:\n  port: 9464", "dicom.port and console.port are both 9464"),
    "a model named twice": ("models:\n  active: [a/1.0.0, a]", "line 2: models.active: a model is named twice"),
    "a result that there is not": (
        "destinations:\n- {kind: folder, name: a, path: /b, results: [sr, tiff]}",
        "line 2: destinations.0.results.1: Input should be 'sr', 'ko', 'sc', 'pdf', 'gsps' or 'seg' (found 'tiff')",
    ),
    "no result": (
        "destinations:\n- {kind: folder, name: a, path: /b, results: []}",
        "line 2: destinations.0: 'a' gets neither results nor images",
    ),
    "a key twice": (
        "dicom:\n  port: 104\n  host: a\n  port: 105",
        "line 4: found key 'port' twice. Remove one of them",
    ),
    "a key twice inside a list": ("destinations:\n- kind: folder\n  kind: folder", "line 3: found key 'kind' twice"),
    "a list of settings": ("- dicom\n- worker", "line 1: settings: Input should be a valid dictionary"),
    "a number as a key": ("dicom: {}\n104: dicom", "line 2: 104: Keys should be strings (found 104)"),
    "not YAML": ("dicom: {port: 104\nhost: [", "is not YAML: found while parsing a flow"),
    "a tab": ("dicom:\n\tport: 104", "is not YAML: found while scanning for the next token found character '\\t'"),
    "an alias that leads back": ("dicom: &a\n  peers: *a", "line 2: dicom.peers"),
    "brackets without end": ("dicom: " + "[" * 5000, "is not YAML"),
    "a tag whose value is none": ("device_serial: !!timestamp 2024-13-45", "is not YAML: found month must be in 1..12"),
    "an object of the language": ("dicom: !!python/object/apply:os.system ['true']", "is not YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_named(tmp_path: Path, case: str) -> None:
    text, expected = WRONG[case]
    path = tmp_path / "appliance.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_settings(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_all_broken_rules_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "appliance.yaml"
    path.write_text("dicom:\n  port: 0\nworker:\n  count: 0\n  niec: 5\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings(path)
    lines = str(caught.value).splitlines()
    assert [line.partition("line ")[2][:1] for line in lines] == ["2", "4", "5"]
    assert ["dicom.port" in lines[0], "worker.count" in lines[1], "worker.niec" in lines[2]] == [True] * 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cannot read .*: found No such file or directory. Give a file with -c"
    ):
        read_settings(tmp_path / "absent.yaml")


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_settings(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "appliance.yaml"
    path.write_bytes(b"dicom:\n  ae_title: \xff\xfe\n")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        read_settings(path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "dicom:\n  # port: 104\nworker:\n", "dicom: {}\n", "---\n"])
def test_what_is_not_said_has_its_default(tmp_path: Path, text: str) -> None:
    path = tmp_path / "appliance.yaml"
    path.write_text(text)
    assert read_settings(path) == Settings() == read_settings(None)


def test_settings_that_differ_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "appliance.yaml"
    path.write_text(
        "dicom:\n  ae_title: ON\n  peers:\n  - ae_title: CT 1\n    host: 192.0.2.17\n"
        "dropfolder: {enabled: off, quiet_s: 5}\n"
        "destinations:\n- {kind: dicom, name: pacs, ae_title: PACS, host: pacs.example.org, port: 104}\n"
        "- {kind: folder, name: share, path: /srv/results, results: [sr]}\n"
    )
    settings = read_settings(path)
    assert (settings.dicom.ae_title, settings.dicom.peers[0].ae_title) == ("ON", "CT 1")
    assert (settings.dropfolder.enabled, settings.dropfolder.quiet_s) == (False, 5.0)
    assert [destination.kind for destination in settings.destinations] == ["dicom", "folder"]
    assert settings.worker == Settings().worker


@pytest.mark.parametrize("dropfolder", ["path: /srv/in", "path: /srv/results/in", "path: /srv/results, enabled: false"])
def test_results_beside_the_drop_folder_are_fine(tmp_path: Path, dropfolder: str) -> None:
    path = tmp_path / "appliance.yaml"
    path.write_text(f"dropfolder: {{{dropfolder}}}\ndestinations:\n- {{kind: folder, name: a, path: /srv/results}}\n")
    assert len(read_settings(path).destinations) == 1


@pytest.mark.parametrize("serial", ["0042", "2024-01-02", "2024-13-45", "12:30", "0x10", "0b_", "NO", "~7"])
def test_a_serial_number_is_taken_as_it_is_written(tmp_path: Path, serial: str) -> None:
    """YAML 1.1 reads the first as 34, and others as dates, sixties, truth values, or not at all."""
    path = tmp_path / "appliance.yaml"
    path.write_text(f"device_serial: {serial}\n")
    assert read_settings(path).device_serial == serial


@pytest.mark.parametrize(("number", "meant"), [("104", 104), ("+104", 104), ("1_104", 1104), ("0104", 104)])
def test_a_port_is_decimal(tmp_path: Path, number: str, meant: int) -> None:
    path = tmp_path / "appliance.yaml"
    path.write_text(f"dicom: {{port: {number}}}\n")
    assert read_settings(path).dicom.port == meant


def test_aliases_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "appliance.yaml"
    path.write_text(
        "destinations:\n- {kind: folder, name: a, path: /a, retry: &slow {first_s: 60, longest_s: 3600}}\n"
        "- {kind: folder, name: b, path: /b, retry: *slow}\n"
    )
    assert [destination.retry.first_s for destination in read_settings(path).destinations] == [60, 60]
