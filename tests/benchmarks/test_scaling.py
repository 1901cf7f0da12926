import dataclasses

import numpy as np
import pytest

from benchmarks import scaling, scaling_model, scaling_page
from benchmarks.click_shape import ClickShape
from benchmarks.scaling_model import Parts, Round, Setting
from tests.benchmarks.programs import run_quickly

PARTS = Parts(
    server={"image": 20e-6, "row": 1e-6, "request": 1e-3, "round": 5e-3},
    worker={"sample": 30e-6, "request": 2e-3, "step": 4e-3},
    bytes={"row": 110.0, "sample": 2_000.0, "tower": 8.6e6, "step": 1e6},
    chief_s=2e-3,
)


def made_up_rounds():
    """Rounds that cost exactly what PARTS says."""
    rounds = []
    for workers in (1, 2, 4):
        for servers in (1, 2, 4):
            for samples in (64, 256, 1024):
                asked = 20.0 * workers * samples**0.8  # Popular images repeat.
                one = Round(workers, servers, samples, asked, asked / workers**0.5, exchanges=1)
                costs = PARTS.costs(one)
                rounds.append(
                    dataclasses.replace(
                        one,
                        server_s=costs["server"],
                        worker_s=costs["worker"],
                        bytes=costs["bytes"],
                        chief_s=2e-3 * workers,
                        clock_s=1.0,
                    )
                )
    return rounds


def test_costs_of_a_round_by_hand():
    costs = PARTS.costs(Round(2, 3, 100, asked=1_000, embedded=600, exchanges=1))
    assert costs["server"] == pytest.approx(600 * 20e-6 + 1_000 * 1e-6 + 6 * 1e-3 + 5e-3)
    assert costs["worker"] == pytest.approx(200 * 30e-6 + 6 * 2e-3 + 2 * 4e-3)
    assert costs["bytes"] == pytest.approx(1_000 * 110 + 200 * 2_000 + 2 * 8.6e6 + 2 * 1e6)


def test_the_fit_finds_the_costs_that_made_the_rounds():
    found = scaling_model.fit(made_up_rounds())
    for name in ("server", "worker", "bytes"):
        assert getattr(found, name) == pytest.approx(getattr(PARTS, name), rel=1e-3)
    assert found.chief_s == pytest.approx(2e-3)
    assert max(scaling.errors(found, made_up_rounds()).values()) < 1e-3


def test_no_cost_is_negative():
    table = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0]])
    # Plain least squares has a falling line here.
    assert scaling_model.non_negative(table, np.array([4.0, 3.0, 2.0]))[1] == 0.0
    assert scaling_model.non_negative(table, table @ [3.0, 0.5]) == pytest.approx([3.0, 0.5])
    # A column that is never there.
    assert scaling_model.non_negative(np.array([[1.0, 0.0]]), np.array([2.0])) == [2.0, 0.0]


def test_a_prediction_by_hand():
    setting = Setting(
        cores=2, samples=100, images=1_000, link=1e9, latency=1e-3, round_trips=6, tower_bytes=8e6
    )
    seconds = scaling_model.predict(PARTS, setting, 4)
    assert seconds["servers"] == pytest.approx((4_000 * 21e-6 + 16 * 1e-3 + 5e-3) / 8)
    assert seconds["workers"] == pytest.approx((400 * 30e-6 + 16 * 2e-3 + 4 * 4e-3) / 8)
    assert seconds["images and ids"] == pytest.approx((4_000 * 110 + 400 * 2e3 + 4e6) / 4 / 1e9)
    assert seconds["E between servers"] == pytest.approx(3 * 8e6 / 1e9)
    assert seconds["latency"] == pytest.approx(6e-3)
    rarely = dataclasses.replace(setting, exchanges=0.1, tower_owners=2)
    assert scaling_model.predict(PARTS, rarely, 4)["E between servers"] == pytest.approx(1.2e-3)


def test_what_the_paper_says_of_a_round():
    paper = scaling_model.paper_rounds()
    # 3.9 G samples in rounds of 60,000 are 65,000 rounds; 17.4 hours are 62,640 s.
    assert paper["seconds"][20] == pytest.approx(62_640 / 65_000)
    assert paper["error"] < 0.02 and 0.005 < paper["each"] < 0.01
    assert scaling_model.hours(paper["seconds"][20], 20, 3_000) == pytest.approx(17.4)


def test_the_page_and_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling_page, "PAGES", tmp_path)
    link = {"bytes_a_second": 1e9, "latency_s": 1e-3, "core_s_a_byte": 1e-9}
    predicted = scaling.predictions(PARTS, cores=2, tower_bytes=8.6e6)
    result = scaling_page.Result(PARTS, made_up_rounds(), link, predicted, ClickShape(), cores=2)
    machine = {"processor": "a processor", "time": "2026-01-02T03:04", "commit": "abc"}
    scaling_page.write(result, machine, quick=True)
    text = (tmp_path / "scaling.md").read_text()
    assert "a processor, 2 cores" in text and "A quick run" in text and "{" not in text
    assert "| server, an image through lookup and E | 20 | core µs |" in text
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "A quick run" not in scaling_page.page(result, machine, quick=False)


@pytest.mark.slow
def test_the_scaling_benchmark_runs(tmp_path):
    """Its numbers depend on the machine; that servers compute and bytes cross does not."""
    result, printed = run_quickly("scaling", f"--cache={tmp_path}")
    assert set(result["fit_worst_error"]) == {"server", "worker", "bytes"}
    assert result["efficiency_at_40"]["paper"] == 0.771
    parts = result["results"]["parts"]
    assert parts["server"]["image"] + parts["server"]["row"] > 0
    assert sum(parts["bytes"].values()) > 0
    assert result["results"]["link"]["bytes_a_second"] > 0
    assert "server, an image through lookup and E" in printed
