"""Object stores as paths: what is read is fetched once, what is made is uploaded whole, what is wrong is told."""

import shutil
import threading
import time
from pathlib import Path

import httpx2
import pytest
from pyarrow import fs
from tiny import make_reranker, make_retriever

from rabtriever.errors import ConflictError, InputError, NotFoundError, StorageError
from rabtriever.persistence import storage
from rabtriever.persistence.folder import atomic_folder, local_path, normalized_uri, require_absent
from rabtriever.persistence.object_store import filesystem, storage_options
from rabtriever.retriever import Rabtriever


def put(uri, text):
    """Writes an object."""
    files, path = filesystem(uri)
    with files.open_output_stream(path) as file:
        file.write(text.encode())


def names(uri):
    """The objects below a URI."""
    return sorted(storage._list(*filesystem(uri)))


@pytest.fixture
def downloads(monkeypatch):
    """The URIs that are downloaded."""
    found, download = [], storage._download
    monkeypatch.setattr(storage, "_download", lambda uri, *rest: (found.append(uri), download(uri, *rest)))
    return found


def test_an_object_is_fetched_once_and_anew_when_it_changed(store, downloads):
    put(f"{store}/corpus.jsonl", "one")
    copy = storage.fetch(f"{store}/corpus.jsonl")
    assert copy.name == "corpus.jsonl" and copy.read_text() == "one" and storage.fetch(f"{store}/corpus.jsonl") == copy
    assert len(downloads) == 1 and storage.origin(copy) == f"{store}/corpus.jsonl"
    put(f"{store}/corpus.jsonl", "another")
    assert storage.fetch(f"{store}/corpus.jsonl").read_text() == "another" and len(downloads) == 2
    assert copy.read_text() == "one"  # who reads it goes on


def test_everything_below_a_prefix_is_fetched_and_nothing_beside_it(store, downloads):
    for name in ("model/a.json", "model/sub/b.json", "model-2/c.json", "model/sub/deep/d"):
        put(f"{store}/{name}", name)
    copy = storage.fetch(f"{store}/model/")
    found = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file())
    assert (
        found == ["a.json", "sub/b.json", "sub/deep/d"] and (copy / "sub" / "b.json").read_text() == "model/sub/b.json"
    )
    assert storage.fetch(f"{store}/model") == copy and downloads == [f"{store}/model"]
    assert storage.origin(copy / "sub" / "b.json") == f"{store}/model/sub/b.json"
    message = storage.with_uris(f"{copy / 'a.json'}, line 3: bad, {copy}")
    assert message == f"{store}/model/a.json, line 3: bad, {store}/model"
    put(f"{store}/model/e", "e")
    assert (storage.fetch(f"{store}/model") / "e").is_file()


def test_many_at_once_fetch_once(store, downloads):
    for i in range(40):
        put(f"{store}/many/{i}.txt", str(i))
    found = []
    threads = [threading.Thread(target=lambda: found.append(storage.fetch(f"{store}/many"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 8 and len(downloads) == 1
    assert {path.read_text() for path in found[0].iterdir()} == {str(i) for i in range(40)}


def test_what_changes_while_it_is_fetched_is_not_mixed(store, monkeypatch):
    put(f"{store}/a", "one")
    read = storage._read

    def change(uri, source):
        put(f"{store}/a", "longer")
        return read(uri, source)

    monkeypatch.setattr(storage, "_read", change)
    with pytest.raises(StorageError, match="it was changed while it was fetched; run it again"):
        storage.fetch(f"{store}/a")
    monkeypatch.undo()


def test_a_folder_is_uploaded_whole_and_its_mark_last(store, monkeypatch):
    order, write = [], storage._write
    monkeypatch.setattr(storage, "_write", lambda f, file, path: (order.append(file.name), write(f, file, path)))
    with atomic_folder(f"{store}/model") as folder:
        (folder / "sub").mkdir()
        for name in ("rabtriever.json", "z.safetensors", "sub/a", "modules.json"):
            (folder / name).write_text(name)
        assert names(f"{store}/model") == []
    assert names(f"{store}/model") == ["modules.json", "rabtriever.json", "sub/a", "z.safetensors"]
    assert order[-2:] == ["modules.json", "rabtriever.json"] and not folder.exists()
    with pytest.raises(ConflictError, match="exists already; give another URI"):
        require_absent(f"{store}/model")
    with pytest.raises(ConflictError), atomic_folder(f"{store}/model"):
        pass
    with pytest.raises(ZeroDivisionError), atomic_folder(f"{store}/other") as folder:
        (folder / "a").write_text(str(1 / 0))
    assert not folder.exists() and not storage.exists(f"{store}/other")


def test_an_upload_that_fails_leaves_nothing_there_and_the_work_here(store, monkeypatch):
    write = storage._write

    def fails(filesystem, file, path):
        if file.name == "rabtriever.json":
            raise OSError("AWS Error ACCESS_DENIED during PutObject")
        write(filesystem, file, path)

    monkeypatch.setattr(storage, "_write", fails)
    with pytest.raises(StorageError, match="check the credentials.*what was to be uploaded is in") as caught:
        with atomic_folder(f"{store}/model") as folder:
            for name in ("a", "rabtriever.json"):
                (folder / name).write_text(name)
    assert names(f"{store}/model") == [] and str(folder) in str(caught.value) and (folder / "rabtriever.json").is_file()
    require_absent(f"{store}/model")  # the next attempt is not refused


def test_a_file_that_is_written_on_stays_here_until_it_is_whole(store):
    uri = f"{store}/requests.jsonl"
    with pytest.raises(KeyboardInterrupt), storage.working_file(uri) as file:
        file.write_text("one\n")
        raise KeyboardInterrupt
    assert not storage.exists(uri)
    with storage.working_file(uri) as file:
        assert file.read_text() == "one\n"
        file.write_text("one\ntwo\n")
    assert local_path(uri).read_text() == "one\ntwo\n" and not file.exists()
    with storage.working_file(uri) as file:  # goes on with what is in the store
        assert file.read_text() == "one\ntwo\n"
    with storage.uploaded_file(uri) as file:
        file.write_text("new")
    assert local_path(uri).read_text() == "new"


def test_a_model_in_a_store(store, retriever, downloads, tmp_path):
    with pytest.warns(UserWarning, match="stands on .*, which other machines need in the same place"):
        retriever.save_pretrained(f"{store}/models/mine")
    assert retriever.name_or_path == f"{store}/models/mine"
    retriever.save_pretrained(tmp_path / "local")
    assert names(f"{store}/models/mine") == sorted(
        path.relative_to(tmp_path / "local").as_posix() for path in (tmp_path / "local").rglob("*") if path.is_file()
    )
    loaded = Rabtriever.from_pretrained(f"{store}/models/mine")
    assert loaded.fingerprint == retriever.fingerprint and loaded.name_or_path == f"{store}/models/mine"
    local = Rabtriever.from_pretrained(tmp_path / "local")
    assert (loaded.encode_query(["rain"]) == local.encode_query(["rain"])).all()
    assert loaded.reranker.fingerprint == local.reranker.fingerprint
    Rabtriever.from_pretrained(f"{store}/models/mine")
    assert downloads == [f"{store}/models/mine"]
    with pytest.raises(NotFoundError, match="no such object, and none below it"):
        Rabtriever.from_pretrained(f"{store}/models/other")


def test_a_model_beside_another_in_a_store(store, reranker, tmp_path):
    """A folder of models that was copied there whole: one names another by a relative path."""

    shutil.copytree(reranker.llm.loaded.files.folder, tmp_path / "models" / "llm")
    make_retriever(make_reranker(tmp_path / "models" / "llm")).save_pretrained(tmp_path / "models" / "mine")
    storage.upload(tmp_path / "models", f"{store}/models")
    shutil.rmtree(tmp_path / "models")
    loaded = Rabtriever.from_pretrained(f"{store}/models/mine")
    assert loaded.reranker.llm.loaded.source == f"{store}/models/llm"
    assert len(loaded.encode_query(["rain"])) == 1


def test_file_uris_are_paths(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    assert local_path((tmp_path / "a b").as_uri()) == tmp_path / "a b" == local_path(f"file://{tmp_path}/a b")
    with atomic_folder(f"file://{tmp_path}/made") as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "made" / "x").is_file() and normalized_uri(f"file://{tmp_path}/x") == str(tmp_path / "x")
    with pytest.raises(ConflictError):
        require_absent(f"file://{tmp_path}/made")


def check(call, *parts):
    """The call raises one line that has all parts, within seconds."""
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        call()
    assert time.monotonic() - started < 10 and "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_what_is_wrong_is_one_line_with_the_remedy(store, s3_server, monkeypatch, tmp_path):
    check(lambda: storage.fetch("s3://nowhere/x"), "s3://nowhere/x", "no such bucket 'nowhere'", "make it, or correct")
    check(lambda: require_absent("s3://nowhere/x"), "no such bucket 'nowhere'")
    check(lambda: storage.fetch(f"{store}/x"), f"{store}/x: no such object")
    for bad in ("s3://", "s3://bucket/../x", "s3://bucket//x"):
        check(lambda bad=bad: storage.fetch(bad), bad, "write s3://BUCKET/NAME")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    check(lambda: storage.fetch("az://x/y"), "set AZURE_STORAGE_ACCOUNT_NAME")
    put(f"{store}/x", "x")
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    check(lambda: storage.fetch(f"{store}/x"), "cannot be written", "set RABTRIEVER_CACHE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
    check(lambda: storage.fetch(f"{store}/x"), "cannot be used", "check the network and the endpoint (AWS_ENDPOINT_URL")


def test_wrong_credentials(store, s3_server):
    put(f"{store}/x", "x")
    httpx2.post(f"{s3_server}/moto-api/reset-auth", content="0")  # from now on moto checks them
    try:
        for call in (storage.fetch, require_absent):
            check(lambda call=call: call(f"{store}/x"), f"{store}/x: cannot be used", "check the credentials")
    finally:
        httpx2.post(f"{s3_server}/moto-api/reset-auth", content="1000000000")
    assert storage.exists(f"{store}/x")


def test_one_set_of_variables_is_for_tables_and_files(store, s3_server, monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.setenv(name, s3_server)
        assert storage_options(store)["aws_endpoint"] == s3_server and not storage.exists(store)
        monkeypatch.delenv(name)
    assert storage_options(store) == {} == storage_options("gs://bucket/x")


def test_names_that_no_file_can_have_are_refused(store, monkeypatch):
    put(f"{store}/folder/x", "x")
    listed = storage._list

    def climbing(filesystem, path):
        found = listed(filesystem, path)
        return {f"../{name}": info for name, info in found.items()}

    monkeypatch.setattr(storage, "_list", climbing)
    with pytest.raises(InputError, match="a name that no file can have"):
        storage.fetch(f"{store}/folder")


def test_a_place_marker_is_no_object(store):
    """As consoles of stores make them for a folder."""
    files, path = filesystem(f"{store}/folder")
    files.create_dir(path)
    assert not storage.exists(f"{store}/folder")
    require_absent(f"{store}/folder")
    assert isinstance(files, fs.S3FileSystem) and not Path(path).exists()
