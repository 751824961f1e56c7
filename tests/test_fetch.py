"""Downloads from a server on this machine: whole or not at all."""

import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from proactor_lib.datasets import fetch
from proactor_lib.errors import UserError

BODIES = {"abcd_v1.1.json.gz": b"chats" * 100_000, "guidelines.json": b"{}", "ontology.json": b"[]"}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A mirror's URL, its folder, and the list of paths that were asked for."""
    folder, asked = tmp_path / "mirror", []
    folder.mkdir()
    for name, body in BODIES.items():
        (folder / name).write_bytes(body)
        monkeypatch.setitem(fetch.ABCD_FILES, name, hashlib.sha256(body).hexdigest())

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, form, *args):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()
    server.server_close()


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*")}


def test_files_arrive_and_are_not_fetched_twice(served, tmp_path):
    url, _, asked = served
    seen = []
    paths = fetch.fetch_abcd(tmp_path / "abcd", url, lambda *event: seen.append(event))
    assert [p.name for p in paths] == list(BODIES) and content(tmp_path / "abcd") == BODIES
    assert ("abcd_v1.1.json.gz", 500_000, 500_000) in seen
    before = len(asked)
    (tmp_path / "abcd" / "ontology.json").write_bytes(b"cut")
    fetch.fetch_abcd(tmp_path / "abcd", url)
    assert asked[before:] == ["/ontology.json"] and content(tmp_path / "abcd") == BODIES


def test_a_wrong_checksum_keeps_nothing(served, tmp_path):
    url, folder, _ = served
    (folder / "abcd_v1.1.json.gz").write_bytes(b"other")
    with pytest.raises(UserError, match="another version, nothing was kept"):
        fetch.fetch_abcd(tmp_path / "abcd", url)
    assert content(tmp_path / "abcd") == {}


def test_what_is_not_there_and_no_network(served, tmp_path):
    url, folder, _ = served
    (folder / "guidelines.json").unlink()
    with pytest.raises(UserError, match="guidelines.json answers 404"):
        fetch.fetch_abcd(tmp_path / "abcd", url)
    assert list(content(tmp_path / "abcd")) == ["abcd_v1.1.json.gz"]
    with pytest.raises(UserError, match="without a network, download it elsewhere to"):
        fetch.fetch_abcd(tmp_path / "none", "http://127.0.0.1:9")
    assert content(tmp_path / "none") == {}
