import dataclasses
import json
import re

import pytest

from benchmarks import harness


@dataclasses.dataclass(frozen=True)
class Config:
    rows: int = 3


def test_median_and_spread():
    timing = harness.Timing((3.0, 1.0, 100.0))
    assert timing.median == 3.0 and timing.spread == (1.0, 100.0)
    assert timing.as_json() == {"median_s": 3.0, "min_s": 1.0, "max_s": 100.0, "repeats": 3}
    with pytest.raises(ValueError, match="measure at least once"):
        harness.Timing(())


def test_warm_up_is_not_timed_and_things_take_turns():
    calls = []
    actions = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = harness.measure_together(actions, repeats=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert {len(timing.seconds) for timing in timings.values()} == {3}


def test_a_slow_thing_is_measured_at_least_once():
    assert len(harness.measure(lambda: None, repeats=9, warm_up=0, seconds=0.0).seconds) == 1
    assert len(harness.measure(lambda: None, repeats=0).seconds) == 1


def test_the_machine_is_noted():
    machine = harness.machine()
    assert machine["cores"] >= 1 and machine["versions"]["tensorflow"].startswith("2.")
    assert re.fullmatch("[0-9a-f]{40}|", machine["commit"])
    json.dumps(machine)


def test_the_last_line_is_the_json_that_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    # Other tests may have imported programs whose required flags nobody gives here.
    harness.FLAGS.mark_as_parsed()
    monkeypatch.setattr(harness.FLAGS, "out", str(tmp_path / "sub" / "out.json"))
    monkeypatch.setattr(harness.FLAGS, "keep", True)
    report = harness.Report("example", Config())
    report.ratios["ours_over_theirs"] = 2.5
    report.results["ours"] = harness.Timing((1.0,)).as_json()
    report.finish()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    for path in (tmp_path / "sub" / "out.json", tmp_path / "results" / "example.json"):
        assert json.loads(path.read_text()) == printed
    assert printed["ours_over_theirs"] == 2.5 and printed["config"] == {"rows": 3}
    assert next(iter(printed)) == "ours_over_theirs"
