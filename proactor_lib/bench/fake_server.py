"""A scripted server in the place of a vLLM server: the same calls, a process of its own."""

import json
import sys
from dataclasses import asdict, dataclass, field

from proactor_lib.artf.serving.server import Server
from proactor_lib.bench.fake_vllm import Script


@dataclass(kw_only=True)
class FakeServer(Server):
    """Does what `script` says."""

    model: str = "scripted"
    script: Script = field(default_factory=Script)

    what = "scripted server"

    def _command(self) -> list[str]:
        script = json.dumps(asdict(self.script) | {"name": self.name})
        command = [sys.executable, "-m", "proactor_lib.bench.fake_vllm", "--host", self.host, "--port", str(self.port)]
        return [*command, script]

    def misbehave(self, **faults) -> None:
        """Set faults (fake_vllm.FAULTS)."""
        self.post("/fault", faults)

    def seen(self) -> dict:
        """What it holds and has seen (fake_vllm.State)."""
        return self.get("/seen").json()
