"""Every mistake that was made elsewhere has a test here that exists."""

from pathlib import Path

from incidents_page import PAGE, TABLE, missing, read_table, render

INCIDENTS = read_table(TABLE.read_text(encoding="utf-8"))


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(INCIDENTS)


def test_every_guard_exists() -> None:
    assert missing(INCIDENTS) == []


def test_every_incident_is_guarded_or_says_what_is_not_built() -> None:
    assert len(INCIDENTS) >= 24
    for incident in INCIDENTS:
        assert incident.tests, incident.where
        assert len(set(incident.tests)) == len(incident.tests), incident.where


def test_a_guard_that_does_not_exist_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "def test_here(): ...\nclass TestA:\n    def test_in(self): ...\n"
        "def helper(): ...\n",
        encoding="utf-8",
    )
    here = ["test_a.py::test_here", "test_a.py::TestA::test_in"]
    gone = [
        "test_a.py::test_gone",
        "test_a.py::test_in",
        "test_a.py::helper",
        "test_b.py::test_here",
    ]
    row = INCIDENTS[0]._replace(tests=[*here, *gone])
    assert missing([row], tmp_path) == gone
