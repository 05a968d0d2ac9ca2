"""Downloads, against a server on this machine."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from prunetune.data import fashion
from prunetune.data.cifar import CIFAR10, CIFAR100, Cifar
from prunetune.data.downloads import cache_folders, download
from prunetune.errors import ConfigError
from tests.support import data_makers as make
from tests.support.refusals import refused

CONTENT = b"0123456789" * 300_000
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


class _Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        self.asked.append(self.path)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Address, the folder that is served, and what has been asked for."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = type("Handler", (_Quiet,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder, handler.asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("published", [MD5, SHA256])
def test_what_arrives_is_verified_and_whole(published: str, site, tmp_path: Path):
    address, folder, _ = site
    (folder / "file").write_bytes(CONTENT)
    download(f"{address}/file", tmp_path / "new" / "file", published, "it")
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert {path.name for path in (tmp_path / "new").iterdir()} <= {"file", "file.lock"}


@pytest.mark.parametrize("content", [CONTENT[:-1], b"", CONTENT[:-1] + b"x"])
def test_wrong_content_leaves_nothing(content: bytes, site, tmp_path: Path):
    address, folder, _ = site
    (folder / "file").write_bytes(content)
    with refused("data", "checksum", MD5):
        download(f"{address}/file", tmp_path / "new" / "file", MD5, "it")
    assert {path.name for path in (tmp_path / "new").iterdir()} <= {"file.lock"}


def test_a_failure_says_what_was_tried_and_where_to_put_the_file(site, tmp_path: Path):
    address, _, _ = site
    with pytest.raises(ConfigError) as caught:
        download(f"{address}/file", tmp_path / "file", MD5, "it")
    assert str(caught.value) == (
        f"data: it is not on this machine and downloading {address}/file failed (HTTP Error 404: File not found); "
        f"put the file at {tmp_path / 'file'}, or name its folder with data_args.root"
    )


def test_without_a_network(tmp_path: Path):
    with refused("data", "failed"):
        download("http://127.0.0.1:9/file", tmp_path / "file", MD5, "it")


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with refused("data", "file"):
        download("http://127.0.0.1:9/file", tmp_path / "file" / "sub" / "file", MD5, "it")


def test_processes_that_wait_do_not_download_again(site, tmp_path: Path):
    address, folder, asked = site
    (folder / "file").write_bytes(CONTENT)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(download, f"{address}/file", tmp_path / "file", MD5, "it") for _ in range(4)]
        for job in jobs:
            job.result()
    assert asked == ["/file"]


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PRUNETUNE_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folders() == (tmp_path,)
    monkeypatch.delenv("PRUNETUNE_DATA")
    old = Path("/home/somebody/.cache/prunetune/data")
    assert cache_folders() == (Path("/somewhere/prunetune/data"), old)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folders() == (old,)


def test_a_download_of_before_xdg_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("PRUNETUNE_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    raw = make.write_idx(tmp_path / ".cache" / "prunetune" / "data" / "fashion-mnist")
    source = fashion.FashionMNIST()
    source.checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in raw.iterdir()}
    source.system_folders = ()
    assert source.read()[1] == "official"


def test_addresses_are_official_and_encrypted():
    assert fashion.ADDRESS.startswith("https://github.com/zalandoresearch/fashion-mnist/")
    for layout in (CIFAR10, CIFAR100):
        assert layout.address == "https://www.cs.toronto.edu/~kriz"


def test_cifar_is_downloaded_once_and_then_found(site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    address, folder, asked = site
    monkeypatch.setenv("PRUNETUNE_DATA", str(tmp_path / "cache"))
    made = make.write_cifar100(tmp_path)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(made / "cifar-100-python", "cifar-100-python")
    (folder / "cifar-100-python.tar.gz").write_bytes(packed.getvalue())
    files = {
        name: hashlib.md5((made / "cifar-100-python" / name).read_bytes()).hexdigest() for name in ("train", "test")
    }
    layout = replace(
        CIFAR100,
        address=address,
        archive_md5=hashlib.md5(packed.getvalue()).hexdigest(),
        train={"train": files["train"]},
        test={"test": files["test"]},
    )
    source = Cifar(layout)
    assert source.digest() == "official"
    assert asked == []
    for _ in range(2):
        data, digest = source.read()
        assert (digest, len(data.train_labels), data.official) == ("official", 200, True)
    assert asked == ["/cifar-100-python.tar.gz"]


def test_fashion_mnist_resumes_a_download_that_stopped_between_files(
    site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, folder, asked = site
    monkeypatch.setenv("PRUNETUNE_DATA", str(tmp_path / "cache"))
    raw = make.write_idx(tmp_path / "raw")
    content = {path.name: path.read_bytes() for path in raw.iterdir()}
    zipped = {name: gzip.compress(data) for name, data in content.items()}
    for name, data in zipped.items():
        (folder / f"{name}.gz").write_bytes(data)
    monkeypatch.setattr(fashion, "ADDRESS", address)
    monkeypatch.setattr(fashion, "GZIP_MD5", {name: hashlib.md5(data).hexdigest() for name, data in zipped.items()})
    source = fashion.FashionMNIST()
    source.checksums = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    source.system_folders = ()
    there = tmp_path / "cache" / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    there.parent.mkdir(parents=True)
    there.write_bytes(zipped["train-images-idx3-ubyte"])
    assert source.digest() == "official"
    data, digest = source.read()
    assert (digest, len(data.train_labels)) == ("official", 20)
    assert sorted(asked) == [f"/{name}.gz" for name in sorted(content) if name != "train-images-idx3-ubyte"]
