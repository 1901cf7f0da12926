import pytest

from amstf.errors import ConfigError
from launch.extraction.image_list import list_images


def touch(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"")


def test_a_directory(tmp_path):
    touch(
        tmp_path, "7.jpg", "b/item-00012.PNG", "b/.hidden/1.jpg", ".2.jpg", "readme.txt", "c/3.gif"
    )
    found = list_images(str(tmp_path))
    assert found.path_of() == {
        7: str(tmp_path / "7.jpg"),
        12: str(tmp_path / "b/item-00012.PNG"),
        3: str(tmp_path / "c/3.gif"),
    }
    assert (len(found), found.ignored, found.ids.dtype) == (3, 1, "int64")


def test_a_pattern_takes_what_it_matches(tmp_path):
    touch(tmp_path, "1.dat", "2.jpg", "d/3.jpg")
    assert sorted(list_images(f"{tmp_path}/*").ids) == [1, 2]
    assert sorted(list_images(f"{tmp_path}/**/*.jpg").ids) == [2, 3]
    assert list_images(f"{tmp_path}/1.dat").ids.tolist() == [1]


def test_a_csv_file(tmp_path):
    (tmp_path / "l.csv").write_text(f"path,what,id\na.jpg,x,9\n\n/b/c.png,y,{2**63 - 1}\n")
    assert list_images(f"{tmp_path}/l.csv").path_of() == {
        9: f"{tmp_path}/a.jpg",
        2**63 - 1: "/b/c.png",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("number,path\n1,a\n", "line 1: got the columns number,path, wanted id,path"),
        ("", "line 1: got the columns nothing"),
        ("id,path\n1,a\nx,b\n", "line 3: the id is 'x', wanted a whole number"),
        ("id,path\n-1,a\n", "line 2: the id is '-1'"),
        (f"id,path\n{2**63},a\n", "line 2: the id is"),
        ("id,path\n1,a,b\n", "line 2: got 3 values, wanted 2"),
        ("id,path\n1,\n", "line 2: the path is empty"),
        ("id,path\n", "no images there"),
        ("id,path\n4,a\n4,b\n", "a and .*b both have the image id 4"),
        (b"id,path\n1,\xff\n", "not a CSV file in UTF-8"),
    ],
)
def test_bad_csv_files_are_named_with_their_line(tmp_path, text, words):
    path = tmp_path / "l.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words):
        list_images(str(path))


def test_names_and_ids_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match="no images there"):
        list_images(str(tmp_path))
    touch(tmp_path, "a1/5.jpg", "a2/item-5.png")
    with pytest.raises(ConfigError, match=r"a1/5.jpg and .*a2/item-5.png both have the image id 5"):
        list_images(str(tmp_path))
    touch(tmp_path, "a1/5b.jpg")
    with pytest.raises(ConfigError, match=r"5b.jpg: the name does not end in a number"):
        list_images(f"{tmp_path}/a1")
    with pytest.raises(ConfigError, match="--images s3://b/x"):
        list_images("s3://b/x")
