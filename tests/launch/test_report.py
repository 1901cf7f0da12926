"""The page about a run: the right numbers, nothing from elsewhere, names stay text."""

import base64
import collections
import html.parser
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from amstf.data import Samples
from launch.step_logger import History
from tests.launch.handmade_run import HandmadeRun
from tests.launch.test_evaluator import ROOT, environment

HOSTILE = "<img src=x onerror=alert(1)> & 'run'"
SERVER = {
    "images": 75,
    "lookups": 40,
    "ids_looked_up": 3354,
    "ids_missing": 4,
    "lookup_nanoseconds": 2_000_000_000,
    "requests": 147,
    "ids_asked": 5198,
    "ids_distinct": 3358,
    "ids_embedded": 3354,
    "bytes_in": 1_248_000,
    "bytes_out": 832_000,
    "wait_nanoseconds": 260_000_000,
    "leader_forward_nanoseconds": 5_500_000_000,
    "leader_backward_wait_nanoseconds": 70_000_000,
    "leader_backward_nanoseconds": 30_000_000,
    "open_requests": 0,
}
ROUNDS = {
    "rounds": 74,
    "entered": 147,
    "shrunk": 1,
    "wait_nanoseconds": 10_730_000_000,
    "live": 2,
    "waiting": 0,
}
WORKERS = [
    {"steps": 75, "samples_per_second": 92.3, "straggling_seconds": 0.0},
    {"steps": 25, "samples_per_second": 30.8, "straggling_seconds": 33.4},
]


class Page(html.parser.HTMLParser):
    """Tags, addresses and the rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.rows, self.text = collections.Counter(), [], [], ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        self._in_cell = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        elif self._in_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data

    def rows_of(self, first):
        return [row[1:] for row in self.rows if row and row[0] == first]


@pytest.fixture(scope="module")
def pages(small_dataset, tmp_path_factory):
    """Pages of a finished run with a name that is markup, and of one without a report."""
    made = HandmadeRun(tmp_path_factory.mktemp("runs") / HOSTILE, small_dataset)
    made.begin()
    made.save(104)
    made.list_checkpoints(104)
    History(made.directory.history).add(step=104, seconds=52, loss=0.6, validation_auc=0.61)
    counted = {"ps-0": SERVER, "sum": SERVER, "rounds": ROUNDS}
    best = {"step": 91, "validation_auc": 0.6543, "validation_gauc": 0.6432}
    made.write_report(
        "stopped early: the <b>AUC</b>",
        image_servers=counted,
        best_validation=best,
        workers=WORKERS,
    )
    running = HandmadeRun(made.directory.path.with_name("running"), small_dataset)
    running.begin()
    running.save(13)
    running.list_checkpoints(13)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "launch.report",
            f"--run={made.directory.path},{running.directory.path}",
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout == f"report: {made.directory.page}\nreport: {running.directory.page}\n"
    return made.directory, made.directory.page.read_text(), running.directory.page.read_text()


def test_it_needs_nothing_else_and_names_stay_text(pages):
    _, text, _ = pages
    page = Page(text)
    assert not page.tags["script"] and not page.tags["link"] and not page.tags["iframe"]
    assert not page.tags["b"] and HOSTILE in page.text
    assert (
        len(page.addresses) == page.tags["img"] == 6
    )  # Curves, 2 x buckets, reliability, workers, servers.
    assert not re.search(r"url\(|@import|https?://", text)
    for address in page.addresses:
        kind, _, content = address.partition(",")
        assert kind == "data:image/svg+xml;base64"
        svg = ElementTree.fromstring(base64.b64decode(content))  # noqa: S314 - the page is ours
        links = [v for e in svg.iter() for name, v in e.attrib.items() if name.endswith("href")]
        assert all(link.startswith("#") for link in links)


def test_the_numbers_of_the_run(pages):
    page = Page(pages[1])
    for shown in ("stopped early", "104", "6,656 samples", "52.0 s", "128", "0.6543", "step 91"):
        assert shown in page.text
    (traffic, seconds) = page.rows_of("ps-0")
    assert traffic == [
        *("75", "147", "5,198", "3,358", "3,354", "4", "1.2 MB", "832.0 kB", "14.1 kB")
    ]
    assert seconds == ["0.26", "2.00", "3.50", "0.07", "0.03"]
    assert "rounds 74, entered 147, shrunk 1, live 2, waiting 0;\nwaited 10.73 s" in page.text
    assert page.rows_of("0") == [["75", "75.0 %", "92", "-"]]
    assert page.rows_of("1") == [["25", "25.0 %", "31", "33.4 s"]]
    assert page.rows_of("batch_size") == [["64"]]
    assert page.rows_of("ams.merge") == [["none"]]


def test_the_numbers_of_the_split(pages, small_dataset):
    directory, text, _ = pages
    page = Page(text)
    metrics = json.loads((directory.path / "evaluation-test.json").read_text())["metrics"]
    row = metrics["all"]
    assert page.rows_of("all") == [
        [
            f"{row['impressions']:,}",
            f"{row['clicks']:,}",
            *(f"{row[name]:.4f}" for name in ("auc", "gauc", "log_loss")),
            f"{row['calibration']:.3f}",
        ]
    ]
    samples = Samples.open(small_dataset)
    unseen = page.rows_of("unseen")
    for field, shown in zip((samples.schema.group.name, samples.schema.item), unseen, strict=True):
        known = {value for batch in read(samples, "train", field) for value in batch}
        new = [value for batch in read(samples, "test", field) for value in batch]
        new = [value for value in new if value not in known]
        assert shown[:2] == [f"{len(set(new)):,}", f"{len(new):,}"]
    # Items that training never showed are the new items of launch.evaluate.
    assert unseen[1][3] == f"{metrics['new items']['auc']:.4f}"
    buckets = [row for row in page.rows if re.fullmatch(r"[\d,]+-[\d,]+|unseen", row[0])]
    shown = [int(row[2].replace(",", "")) for row in buckets]
    assert sum(shown) == 2 * metrics["all"]["impressions"]
    bins = [row for row in page.rows if len(row) == 5 and " to " in row[2]]
    assert sum(int(row[3]) for row in bins) == metrics["all"]["impressions"]
    assert sum(int(row[4]) for row in bins) == metrics["all"]["clicks"]


def read(samples, split, field):
    for batch in samples.dataset(split, 500, fields=[field], only_inputs=False):
        yield batch[field].numpy().ravel().tolist()


def test_a_run_without_a_report_has_a_page_too(pages):
    page = Page(pages[2])
    assert "no report yet" in page.text and "still running, or was killed" in page.text
    assert page.rows_of("epochs") == [["2"]]
    assert "straggling" not in page.text
