import pytest

from amstf.errors import SampleError
from launch.datasets.new_dataset import new_dataset


def make(out, content="new", **options):
    with new_dataset(out, **options) as directory:
        (directory / "manifest.json").write_text(content)


def test_the_directory_appears_at_the_end(tmp_path):
    out = tmp_path / "deep" / "data"
    with new_dataset(out) as directory:
        (directory / "manifest.json").write_text("x")
        assert not out.exists()
    assert [p.name for p in out.iterdir()] == ["manifest.json"]
    assert [p.name for p in out.parent.iterdir()] == ["data"]


def test_an_exception_or_an_interruption_leaves_nothing(tmp_path):
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), new_dataset(tmp_path / "data") as directory:
            (directory / "half").write_text("x")
            raise error
        assert not list(tmp_path.iterdir())


def test_a_data_set_is_replaced_only_on_demand(tmp_path):
    make(tmp_path / "data", "old")
    with pytest.raises(SampleError, match=r"is a data set already; .*replace it with --overwrite"):
        make(tmp_path / "data")
    assert (tmp_path / "data" / "manifest.json").read_text() == "old"
    make(tmp_path / "data", overwrite=True)
    assert (tmp_path / "data" / "manifest.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_the_old_data_set_stays_when_the_new_one_fails(tmp_path):
    make(tmp_path / "data", "old")
    with pytest.raises(ValueError), new_dataset(tmp_path / "data", overwrite=True):
        raise ValueError
    assert (tmp_path / "data" / "manifest.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_what_is_no_data_set_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(SampleError, match="exists and is not a data set, so it is left alone"):
        make(tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_an_empty_directory_may_be_filled(tmp_path):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    assert (tmp_path / "data" / "manifest.json").read_text() == "new"
