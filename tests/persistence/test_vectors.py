import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rabtriever.errors import InputError, StorageError
from rabtriever.persistence.files import Folder
from rabtriever.persistence.vectors import SUFFIX, VectorFolder, file_name, text_key, write_vectors

KEYS = [text_key("pair", str(i)) for i in range(5)]
VECTORS = np.arange(15, dtype=np.float32).reshape(5, 3)


def test_what_is_written_is_read_in_any_order_and_by_others(tmp_path):
    folder = VectorFolder(tmp_path / "new")
    folder.write(KEYS[:2], VECTORS[:2])
    folder.write(KEYS[2:], VECTORS[2:])
    for one in (folder, VectorFolder(tmp_path / "new")):
        assert set(one) == set(KEYS) and len(one) == 5 and KEYS[3] in one and text_key("other") not in one
        np.testing.assert_array_equal(one.read([KEYS[4], KEYS[0], KEYS[4]]), VECTORS[[4, 0, 4]])
        assert one.read([]).shape == (0, 0)


def test_files_are_plain_safetensors_named_by_their_keys(tmp_path):
    name, table = write_vectors(Folder(tmp_path), KEYS, VECTORS)
    assert name == file_name(KEYS) and file_name(KEYS) != file_name(KEYS[::-1])
    found = load_file(tmp_path / name)
    np.testing.assert_array_equal(found["vectors"], VECTORS)
    np.testing.assert_array_equal(found["keys"], table)
    save_file({"keys": table[:1] + 1, "vectors": VECTORS[:1]}, tmp_path / f"other{SUFFIX}")
    assert len(VectorFolder(tmp_path)) == 6


@pytest.mark.parametrize("size", [0, 5, 8, 60, 150])
def test_a_file_that_is_cut_off_is_named(tmp_path, size):
    name, _ = write_vectors(Folder(tmp_path), KEYS, VECTORS)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:size])
    with pytest.raises(InputError, match=f"{name}: not a readable cache file"):
        VectorFolder(tmp_path).read(KEYS)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(StorageError, match="No space left"):
        Folder(tmp_path).write("file", b"content")
    assert Folder(tmp_path).names() == [] and not list(tmp_path.iterdir())


def test_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folder("here").uri == Folder("file://" + str(tmp_path / "here")).uri == str(tmp_path / "here")
    assert Folder("s3://bucket/here/").uri == "s3://bucket/here"
    assert Folder(tmp_path / "nothing").names() == [] and not Folder(tmp_path).exists("nothing")
