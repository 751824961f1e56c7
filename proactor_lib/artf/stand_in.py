"""A scripted server in the place of a vLLM server: the same calls, a process of its own."""

import json
import sys
from dataclasses import asdict, dataclass, field

from proactor_lib.artf.scripted import Script
from proactor_lib.artf.server import Server


@dataclass(kw_only=True)
class StandIn(Server):
    """Does what `script` says."""

    model: str = "scripted"
    script: Script = field(default_factory=Script)

    what = "scripted server"

    def _command(self) -> list[str]:
        script = json.dumps(asdict(self.script) | {"name": self.name})
        command = [sys.executable, "-m", "proactor_lib.artf.scripted", "--host", self.host, "--port", str(self.port)]
        return [*command, script]

    def misbehave(self, **faults) -> None:
        """Set faults (scripted.FAULTS)."""
        self.post("/fault", faults)

    def seen(self) -> dict:
        """What it holds and has seen (scripted.State)."""
        return self.get("/seen").json()
