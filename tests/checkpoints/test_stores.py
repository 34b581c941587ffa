"""Checkpoints in object stores give the numbers of the same files on this machine, and are read by parts."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import write_safetensors

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.files import File
from dynamics.errors import InputError
from dynamics.io import blocks
from dynamics.io.locations import RemotePath, location, without_secrets
from dynamics.sparsity import compare
from dynamics.sparsity.__main__ import cli

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def store():
    """Return a folder of fsspec's memory:// file system, which is empty again afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def upload(system, folder: Path, target: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            system.pipe(f"{target}/{file.relative_to(folder)}", file.read_bytes())


def sharded(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Write a folder as transformers does, in two shards with an index."""
    folder.mkdir()
    names = list(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        write_safetensors(folder / file, {name: tensors[name] for name in part})
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    return folder


def totals(base, tuned) -> tuple:
    comparison = compare(base, tuned)
    return comparison.total.sparsity, comparison.total.update_norm, len(comparison.rows), comparison.base.ignored


def test_sharded_folders_and_files_are_those_on_disk(tmp_path, pair, store) -> None:
    base, tuned = sharded(tmp_path / "base", pair[0]), write_safetensors(tmp_path / "tuned.safetensors", pair[1])
    upload(store, base, "/bucket/base")
    store.pipe("/bucket/tuned.safetensors", tuned.read_bytes())
    assert totals("memory://bucket/base/", "memory://bucket/tuned.safetensors") == totals(base, tuned)


def test_formats_of_torch_are_those_on_disk(tmp_path, pair, store) -> None:
    torch = pytest.importorskip("torch")
    import torch.distributed.checkpoint as dcp

    weights = {name: torch.from_numpy(value) for name, value in list(pair[1].items())[:6]}
    dcp.save(weights, checkpoint_id=tmp_path / "dcp", no_dist=True)
    (tmp_path / "pickled").mkdir()
    torch.save(weights, tmp_path / "pickled" / "pytorch_model.bin")
    upload(store, tmp_path, "/bucket")
    for name in ("dcp", "pickled"):
        assert totals(pair[0], f"memory://bucket/{name}") == totals(pair[0], tmp_path / name)


def test_only_the_parts_that_are_needed_are_read(tmp_path, store, monkeypatch) -> None:
    values = np.arange(1 << 19, dtype=np.float32)
    write_safetensors(tmp_path / "model.safetensors", {f"layers.{n}.weight": values for n in range(16)})
    store.pipe("/bucket/model.safetensors", (tmp_path / "model.safetensors").read_bytes())
    ranges: list[tuple[int, int]] = []
    read = type(store).cat_file

    def counted(self, path, start=None, end=None, **kwargs):
        ranges.append((start, end))
        return read(self, path, start=start, end=end, **kwargs)

    monkeypatch.setattr(type(store), "cat_file", counted)
    checkpoint = open_checkpoint("memory://bucket/model.safetensors")
    assert ranges == [(0, blocks.SMALL)]
    ranges.clear()
    assert np.array_equal(checkpoint.tensors["layers.9.weight"].stored(5, 1000), values[5:1000])
    assert [end - start for start, end in ranges] == [blocks.SMALL]
    ranges.clear()
    for start in range(0, 1 << 19, 1 << 17):
        assert np.array_equal(checkpoint.tensors["layers.12.weight"].stored(start, start + (1 << 17)), values[start : start + (1 << 17)])
    assert len(ranges) == len(set(ranges)) <= 3  # 2 MiB in blocks of 4, and what follows them
    size = (tmp_path / "model.safetensors").stat().st_size
    assert all(end - start <= blocks.BLOCK and end <= size for start, end in ranges)


def test_the_blocks_that_are_kept_are_bounded() -> None:
    data = np.random.default_rng(0).bytes(3 * blocks.BLOCK // 2)
    readers = [blocks.BlockReader(len(data), lambda start, stop: data[start:stop]) for _ in range(3)]
    for reader in readers:
        buffer = bytearray(len(data) - 7)
        reader.read_into(7, memoryview(buffer))
        assert bytes(buffer) == data[7:]
    cache = blocks.BlockCache()
    for number in range(100):
        cache.get((0, 1, number), lambda: b"x").result()
    assert sum(cache.holds((0, 1, number)) for number in range(100)) <= blocks.KEPT


def test_a_request_that_failed_is_made_again() -> None:
    answers = iter([OSError("lost"), b"abcd"])

    def read(start: int, stop: int) -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer[start:stop]

    reader, buffer = blocks.BlockReader(4, read), bytearray(4)
    with pytest.raises(OSError, match="lost"):
        reader.read_into(0, memoryview(buffer))
    reader.read_into(0, memoryview(buffer))
    assert bytes(buffer) == b"abcd"


def test_equal_objects_have_equal_identities(store) -> None:
    store.pipe("/bucket/a.bin", b"one")
    first, again = File("memory://bucket/a.bin"), File("memory://bucket/a.bin")
    assert first.identity == again.identity
    store.pipe("/bucket/a.bin", b"two")
    assert File("memory://bucket/a.bin").identity != first.identity


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://bucket/none", "memory://bucket/none: no such object or folder"),
        ("memory://bucket/empty.safetensors", "too short"),
        ("ftp://host/x", "no kind of URL that is read; there are s3://, gs://, hf://, https://"),
        ("s3:/bucket/x", " s3:/bucket/x: no such file or folder; did you mean s3://bucket/x?"),
        ("hf:org/name", "did you mean hf://org/name?"),
        ("https:/me:secret@host/x?sig=hidden", " https:/host/x: no such file or folder; did you mean https://host/x?"),
        ("simplecache::s3://bucket/x", "no such file or folder"),
        ("https://huggingface.co/org/name", "name the model as hf://org/name"),
        ("https://me:secret@127.0.0.1:1/x.safetensors?X-Amz-Signature=hidden", "the server cannot be reached"),
    ],
)
def test_faults_are_one_line_without_secrets(url, says, store, tmp_path, capsys) -> None:
    store.pipe("/bucket/empty.safetensors", b"")
    assert cli([url, str(tmp_path)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert says in line
    assert "secret" not in line
    assert "hidden" not in line


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"reading gs:// needs gcsfs: pip install 'training-dynamics\[stores\]'"):
        open_checkpoint("gs://bucket/model")


def test_outputs_go_to_files_of_this_machine(tmp_path, pair, capsys) -> None:
    write_safetensors(tmp_path / "a.safetensors", pair[0])
    assert cli([str(tmp_path / "a.safetensors"), str(tmp_path / "a.safetensors"), "--json", "s3://bucket/report.json"]) == 2
    assert "s3://bucket/report.json: outputs are written to files of this machine only" in capsys.readouterr().err


def test_paths_in_stores() -> None:
    path = location("s3://bucket/run/checkpoint-50/")
    assert isinstance(path, RemotePath)
    assert (str(path / "a.tar.gz"), path.name, (path / "a.tar.gz").suffix) == (
        "s3://bucket/run/checkpoint-50/a.tar.gz",
        "checkpoint-50",
        ".gz",
    )
    signed = location("https://host/model.safetensors?sig=abc#x")
    assert (str(signed), signed.name, signed.suffix) == ("https://host/model.safetensors", "model.safetensors", ".safetensors")
    assert "abc" not in repr(signed)
    assert location("file:///tmp/x") == Path("/tmp/x")
    assert without_secrets("s3://key:secret@bucket/x") == "s3://bucket/x"
    assert without_secrets("hf://org/name@main/x") == "hf://org/name@main/x"


class _Ranges(SimpleHTTPRequestHandler):
    """Serves files by ranges, as object stores do; ``sent`` counts the bytes of files."""

    ranges, sent, lost = True, 0, 0

    def do_GET(self) -> None:
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
        if wanted and wanted != "bytes=0-0" and self.lost:
            type(self).lost -= 1
            self.close_connection = True
            return
        if "denied" in self.path:
            self.send_error(403)
        elif wanted and self.ranges and path.is_file():
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            data = path.read_bytes()
            part = data[int(first) : int(last or len(data)) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)
            type(self).sent += len(part)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if "denied" in self.path:
            self.send_error(403)
        else:
            super().do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path):
    """Serve ``tmp_path`` at the URL that is returned."""
    pytest.importorskip("aiohttp")
    _Ranges.sent, _Ranges.ranges = 0, True
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Ranges, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_web_server(tmp_path, pair, web) -> None:
    base, tuned = sharded(tmp_path / "base", pair[0]), write_safetensors(tmp_path / "tuned.safetensors", pair[1])
    assert totals(f"{web}/base", f"{web}/tuned.safetensors?token=secret") == totals(base, tuned)
    assert open_checkpoint(f"{web}/tuned.safetensors?token=secret").path == f"{web}/tuned.safetensors"
    write_safetensors(tmp_path / "large.safetensors", {"w": np.zeros(1 << 22, np.float32)})
    _Ranges.sent, _Ranges.lost = 0, 1  # the first connection is lost
    open_checkpoint(f"{web}/large.safetensors")
    assert _Ranges.lost == 0
    assert _Ranges.sent < 2 * blocks.SMALL


def test_faults_of_a_web_server_are_one_line(tmp_path, pair, web) -> None:
    write_safetensors(tmp_path / "a.safetensors", pair[0])
    (tmp_path / "denied").mkdir()
    for path, says in (("none.safetensors", "no such object"), ("denied", "access is denied")):
        with pytest.raises(InputError, match=says) as caught:
            open_checkpoint(f"{web}/{path}")
        assert "\n" not in str(caught.value)
    _Ranges.ranges = False
    with pytest.raises(InputError, match="sends whole files only"):
        open_checkpoint(f"{web}/a.safetensors")


@pytest.mark.slow
def test_an_s3_server(tmp_path, pair, monkeypatch, capsys) -> None:
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "hidden-secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        system = s3fs.S3FileSystem(use_listings_cache=False)
        system.mkdir("bucket")
        base, tuned = sharded(tmp_path / "base", pair[0]), write_safetensors(tmp_path / "tuned.safetensors", pair[1])
        system.put(str(base), "bucket/base", recursive=True)
        system.put(str(tuned), "bucket/run/checkpoint-50/model.safetensors")
        assert totals("s3://bucket/base", "s3://bucket/run/checkpoint-50") == totals(base, tuned)
        first, again = File("s3://bucket/base/config.json"), File("s3://bucket/base/config.json")
        assert first.identity == again.identity
        for url, says in (
            ("s3://bucket/none", "no such object or folder"),
            ("s3://bucket/run", "contains no weights itself, but 1 checkpoint: checkpoint-50"),
            ("s3://nowhere/model", "no such"),
        ):
            assert cli([url, str(tuned)]) == 2
            assert says in capsys.readouterr().err
    finally:
        server.stop()
    assert cli(["s3://bucket/base", str(tuned)]) == 2
    said = capsys.readouterr().err
    assert "the server cannot be reached" in said
    assert "hidden-secret" not in said
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hidden-secret"


class _Hub(_Ranges):
    """Answers for the model ``org/name`` as the Hub does, with the files of the folder ``base``."""

    def do_GET(self) -> None:
        folder = Path(self.directory) / "base"
        if self.path.startswith("/org/name/resolve/main/"):
            self.path = self.path.replace("/org/name/resolve/main", "/base")
            super().do_GET()
        elif "/tree/main" in self.path:
            self.answer([_hub_entry(file) for file in folder.iterdir()])
        elif self.path.split("?")[0] in ("/api/models/org/name", "/api/models/org/name/revision/main"):
            self.answer({"id": "org/name", "sha": "1" * 40, "siblings": []})
        else:
            self.answer({"error": "Repository not found"}, 404)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        files = [Path(self.directory) / "base" / name for name in asked]
        self.answer([_hub_entry(file) for file in files if file.is_file()])

    def answer(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)


def _hub_entry(file: Path) -> dict:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}


@pytest.mark.slow
def test_a_model_on_the_hub(tmp_path, pair) -> None:
    pytest.importorskip("huggingface_hub")
    base, tuned = sharded(tmp_path / "base", pair[0]), write_safetensors(tmp_path / "tuned.safetensors", pair[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Hub, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    settings = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_secret"}

    def sparsity(url: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "dynamics.sparsity", url, str(tuned), "--json", "-"]
        return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)

    try:
        expected = compare(base, tuned).total.to_dict()
        for url in ("hf://org/name", "hf://org/name@main"):
            assert json.loads(sparsity(url).stdout)["total"] == json.loads(json.dumps(expected))
        for url, says in (("hf://org/none", "the Hub refuses it"), ("hf://org/name/none.safetensors", "no such object or folder")):
            answer = sparsity(url)
            assert answer.returncode == 2
            assert says in answer.stderr
            assert "hf_secret" not in answer.stderr
    finally:
        server.shutdown()
        server.server_close()


def test_credentials_in_a_url_are_refused_and_never_shown() -> None:
    for url in ("s3://key:hunter2@bucket/model", "s3://key:hun/ter2@bucket/model", "gs://hunter2@bucket/model"):
        with pytest.raises(InputError, match=r"^(s3|gs)://bucket/model: was given with credentials in it, which are not read there"):
            location(url)
    assert without_secrets("https://host:8000/a@b") == "https://host:8000/a@b"
    assert without_secrets("https://me:pass/word@host:8000/a?key=1") == "https://host:8000/a"


def test_urls_are_those_of_the_standards(tmp_path) -> None:
    assert location("S3://Bucket/Model/") == RemotePath("s3://Bucket/Model")
    spaced = tmp_path / "a b#1"
    spaced.mkdir()
    assert location(f"file://localhost{tmp_path}/a%20b%231") == location(spaced.as_uri()) == spaced
    with pytest.raises(InputError, match="names the host data; a file of this machine is file:///folder/file"):
        location("file://data/model")
    with pytest.raises(InputError, match="names no bucket, host or model"):
        location("s3://")
