"""Our own vLLM server for all policies of an evaluation: started when the first one needs it."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from proactor_lib.artf.serving.cluster import Cluster
from proactor_lib.artf.serving.completions import CompletionClient
from proactor_lib.artf.serving.launch import make_cluster, max_servers, start_server
from proactor_lib.artf.serving.policy_sync import SERVED, AdapterSync, MergedSync, clear_scratch, scratch_folder
from proactor_lib.artf.serving.server import Server
from proactor_lib.artf.training.job import Job, adapters_served
from proactor_lib.artf.training.tokens import DialogueTokens, dialogue_tokens
from proactor_lib.evaluate import confidence
from proactor_lib.evaluate.agents import Served
from proactor_lib.files import read_text
from proactor_lib.run_folder import RunFolder
from proactor_lib.schema import Case

ADAPTERS = 64  # policies of one evaluation whose adapters a GPU server may hold


class PolicyServer:
    """Use it as a context manager: what it started is ended with the block.

    clustered: several servers, where the parameters allow them, in place of one. server: one that is up and stays.
    """

    def __init__(self, run: RunFolder, log_path: Path, on_progress: Callable[[str], None] = lambda text: None,
                 clustered: bool = False, server: Server | None = None):  # fmt: skip
        self._job, self._log_path, self._on_progress = Job(run), log_path, on_progress
        self._clustered = clustered and max_servers(run.params) > 1
        self._server: Server | Cluster | None = server
        self._ends = server is None  # whether what serves ends with the block
        # the adapter that is merged into the server's weights; None: the base alone
        self._held: Path | None = None if server is None else self._job.adapter
        self._version = -1

    def __enter__(self) -> "PolicyServer":
        return self

    def __exit__(self, *_) -> None:
        if self._server and self._ends:
            self._server.stop()
        if self._server:
            clear_scratch(self._log_path.parent)

    @property
    def server(self) -> Server | Cluster:
        """The server, or the cluster, ready. ServerDied if it does not start."""
        if self._server is None:
            lora = adapters_served(self._job.params)
            params = self._job.params.model_copy(update={"lora_rank": self._largest_rank()})
            self._on_progress("waiting for the vLLM server")
            if self._clustered:
                self._server = make_cluster(params, self._job.served, self._log_path.parent, lora).start()
            else:
                self._server = start_server(params, self._job.served, self._log_path, lora)
        return self._server.wait_ready(self._job.params.start_timeout)

    def _largest_rank(self) -> int:
        """Of the run's adapters and those of other runs that it names."""
        p = self._job.params
        configs = [folder / "adapter_config.json" for folder in p.adapters.values()]
        return max([p.lora_rank, *(json.loads(read_text(c))["r"] for c in configs if c.exists())])

    @cached_property
    def _sync(self) -> AdapterSync | MergedSync:
        pool = self.server if self._clustered else [self.server]
        if adapters_served(self._job.params):
            sync = AdapterSync(pool, ADAPTERS)
        else:
            weights, on_ray = self._job.served, self._clustered and bool(self._job.params.ray_address)
            scratch = scratch_folder(self._log_path.parent, weights, elsewhere=on_ray)
            sync = MergedSync(pool, weights, scratch, self._job.server_dtype)
        if self._clustered:
            pool.sync = sync  # servers that join hold the policy too
        return sync

    def serve(self, adapter: Path | None) -> str:
        """Have the base (None) or the base with an adapter served; the model name that requests carry."""
        server = self.server
        if adapter is None and (self._held is None or not self._sync.in_place):
            return SERVED
        if adapter is None:
            server.reload(self._job.served)
            self._held = None
            return SERVED
        self._version += 1
        self._sync.publish(self._version, adapter)
        self._held = adapter
        return self._sync.model_name(self._version)

    def agent(self, adapter: Path | None) -> Served:
        """The policy of this adapter, as it is asked in training."""
        p = self._job.params
        server, limit = self.server, p.max_completion_tokens
        patience = 2 * p.start_timeout if self._clustered else 60.0  # a dead server of several is replaced
        sampler = CompletionClient(server.url, limit, temperature=0.0, patience=patience, key=server.key,
                                   top=confidence.ALTERNATIVES, routed=self._clustered)  # fmt: skip
        longest = p.max_context - p.max_completion_tokens
        return Served(self.serve(adapter), sampler, self._trunk, longest, at_once=max(2, p.max_num_seqs // 8))

    def _trunk(self, case: Case) -> DialogueTokens:
        return dialogue_tokens(self._job.tokenizer, case, self._job.params.chat_template_args)
