"""What a user's machine brings along: proxies, long paths, kernels, a Ray address, a umask, retrained adapters."""

import json
import os
import socket
import sys
import tempfile
import types
from pathlib import Path

import pytest
from proactor_lib import models, processes, ray_session
from proactor_lib.artf.serving import process as serving_process
from proactor_lib.artf.serving.process import ServerProcess
from proactor_lib.artf.serving.router import Router
from proactor_lib.notebook import own_kernel
from proactor_lib.pipeline import Pipeline
from proactor_lib.sweep.cells import make_cells
from proactor_lib.sweep.definition import read_sweep

from support.notebooks import write_notebook

LONG = "/tmp/" + "x" * 95  # TMPDIR of 100 characters
PROXIES = ("HTTP_PROXY", "https_proxy", "ALL_PROXY")


@pytest.fixture
def long_temp(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", LONG)


class Printer(ServerProcess):
    """Prints what its environment holds, and ends."""

    def _command(self):
        return [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]


def environment_of(process, monkeypatch):
    """What a child of `process`'s kind sees."""
    printer = Printer(process.log_path)
    monkeypatch.setattr(printer, "_environment", process._environment)
    printer.start().process.wait()
    return json.loads(printer.log_path.read_text())


def test_the_last_words_of_a_server_are_not_those_of_one_before_it(tmp_path):
    (tmp_path / "log").write_text("RuntimeError: what ended an earlier one\n")
    printer = Printer(tmp_path / "log")
    printer.start().process.wait()
    assert "an earlier one" not in printer.last_words() and '"PATH"' in printer.last_words()


def test_the_router_asks_through_no_proxy(tmp_path, monkeypatch):
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    seen = environment_of(Router(tmp_path / "log"), monkeypatch)
    assert not set(PROXIES) & set(seen) and seen["PATH"] == os.environ["PATH"]


def test_rollouts_ask_through_no_proxy(monkeypatch):
    from proactor_lib.artf.serving.completions import CompletionClient

    for name in PROXIES:
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    client = CompletionClient("http://127.0.0.1:8000", 10)
    assert client._client._mounts == {} and client._client.trust_env is False


def test_a_servers_port_is_free_and_none_that_a_connection_is_given_meanwhile(monkeypatch):
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(20_000 <= serving_process.free_port() < first for _ in range(20))
    with socket.socket() as taken:
        taken.bind((serving_process.HOST, 0))
        monkeypatch.setattr(serving_process, "PORTS", [taken.getsockname()[1]] * 100)
        assert serving_process.free_port() != taken.getsockname()[1]


def test_sockets_lie_in_a_short_folder(tmp_path, long_temp, monkeypatch):
    assert processes.short_temp_folder() == "/tmp"
    assert environment_of(Printer(tmp_path / "log"), monkeypatch)["TMPDIR"] == "/tmp"


NODES = [{"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": False, "Resources": {"CPU": 8.0}}]


def test_ray_starts_here_whatever_address_and_folder_the_environment_names(long_temp, monkeypatch):
    given = {}
    ray = types.SimpleNamespace(
        init=lambda **options: given.update(options), shutdown=lambda: None, nodes=lambda: NODES
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    with ray_session.cluster(cpus=1) as nodes:
        assert nodes == [{"CPU": 1.0}] and given["address"] == "local"
        sockets = f"{given['_temp_dir']}/session_2026-11-28_10-00-00_000000_0000000/sockets/plasma_store"
        assert Path(given["_temp_dir"]).is_dir() and len(sockets) < 107


def test_ray_is_started_again_where_its_helper_took_too_long(monkeypatch):
    starts = []

    def init(**options):
        starts.append(options)
        if len(starts) == 1:
            raise Exception("The current node timed out during startup.")

    ray = types.SimpleNamespace(init=init, shutdown=lambda: None, nodes=lambda: NODES)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    with ray_session.cluster(cpus=1) as nodes:
        assert nodes == [{"CPU": 1.0}] and len(starts) == 2 and starts[0] == starts[1]


def test_the_kernel_is_this_pythons_whatever_the_machine_calls_so(tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager

    other = tmp_path / "data" / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    assert KernelSpecManager().get_kernel_spec("python3").argv == ["/bin/false"]
    with own_kernel():
        assert KernelSpecManager().get_kernel_spec("python3").argv[0] == sys.executable
    assert "JUPYTER_PATH" not in os.environ


def test_a_cached_model_has_the_umasks_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("PROACTOR_CACHE", str(tmp_path / "cache"))
    before = os.umask(0o002)
    try:
        folder = models._once("some", lambda aside: (aside / "config.json").write_text("{}"))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o775 and list((tmp_path / "cache").iterdir()) == [folder]


def adapter(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(text)


def test_a_retrained_adapter_is_another_input(tmp_path):
    adapter(tmp_path / "mine", "one")
    assert_other_inputs(tmp_path, lambda: adapter(tmp_path / "mine", "two, retrained"))


def test_a_correction_by_hand_is_another_input(tmp_path):
    adapter(tmp_path / "mine", "one")
    assert_other_inputs(tmp_path, lambda: (tmp_path / "out/overlay.jsonl").write_text("{}\n"))


def assert_other_inputs(tmp_path, change):
    """Before and after `change` a run with the adapter `mine` has other digests of inputs, and the same before it."""
    notebook = write_notebook(tmp_path / "04_x.ipynb", "1", parameters="params_file = None\nout = None\noverrides = {}")
    (tmp_path / "p.yaml").write_text(f"adapters: {{mine: {tmp_path / 'mine'}}}\n")
    digests = lambda: Pipeline(tmp_path / "p.yaml", tmp_path / "out", {}, [notebook])._digests  # noqa: E731
    before = digests()
    assert digests() == before
    change()
    assert digests().keys() == before.keys() and not digests().items() & before.items()


def test_a_cell_knows_its_adapters_by_what_they_hold_and_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapter(tmp_path / "mine", "one")
    write_notebook(tmp_path / "n.ipynb", "1", parameters="params_file = None\nout = None\noverrides = {}")
    (tmp_path / "s.yaml").write_text("name: s\nnotebook: n.ipynb\nset: {adapters: {mine: mine}}\n")
    (before,) = make_cells(read_sweep(tmp_path / "s.yaml"))
    assert before.params.adapters == {"mine": tmp_path / "mine"}
    adapter(tmp_path / "mine", "two, retrained")
    (after,) = make_cells(read_sweep(tmp_path / "s.yaml"))
    assert after.id != before.id
