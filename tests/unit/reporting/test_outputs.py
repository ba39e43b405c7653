"""What a run will write is tried before it starts, and not touched until it ends."""

from pathlib import Path

import pytest

from reporting.outputs import check_file, check_report_folder
from sybil_engine.core.errors import InvalidSettings


def test_a_file_that_exists_keeps_its_content(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("earlier")
    check_file(file, "--json")
    assert file.read_text() == "earlier"


def test_a_file_that_does_not_exist_yet_is_not_made(tmp_path: Path) -> None:
    check_file(tmp_path / "figures.json", "--json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "no/such/folder.json"])
def test_a_file_that_cannot_be_written_is_refused_by_the_flag_that_named_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"--out \S+ cannot be written .*; name a file in a folder that can be"):
        check_file(tmp_path / name, "--out")


def test_the_folder_of_a_report_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    check_report_folder(folder, "--report")
    assert folder.is_dir()
    assert not list(folder.iterdir())


def test_a_report_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "report"
    file.write_text("a file")
    with pytest.raises(InvalidSettings, match=r"--report .* cannot be written"):
        check_report_folder(file, "--report")
