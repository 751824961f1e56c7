"""A service over real HTTP in this process, and the agent behind it, on a scripted model server."""

import threading
from contextlib import contextmanager

from proactor_lib import agent
from proactor_lib.artf.serving.completions import CompletionClient
from proactor_lib.artf.training.tokens import DialogueTokens
from proactor_lib.evaluate.agents import Served
from proactor_lib.service.agent_service import AgentService, Readiness
from proactor_lib.service.app import make_app
from proactor_lib.service.guard import Limits

from support.waiting import wait_until

KEY = "a-key-of-tests"
MODEL = "policy-v1"
SAID = Readiness()  # as the policy says
OURS = Limits(KEY)


@contextmanager
def served(model, catalog, readiness=SAID, limits=OURS):
    """The address of a service around the agent `model`, without /v1."""
    import uvicorn

    app = make_app(AgentService(model, catalog, readiness), limits)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def scripted_agent(completions, longest=100_000):
    """A policy of ours whose model is `completions` (support.fake_vllm); its tokens are a transcript's bytes."""
    completions.state.adapters[MODEL] = "nowhere"
    return Served(MODEL, CompletionClient(completions.url, 64, 0.0, patience=0.0), _tokens, longest, at_once=4)


def _tokens(case):
    ends = [len(agent.transcript(case.dialogue, t).encode()) for t in range(1, len(case.dialogue.turns) + 1)]
    return DialogueTokens(list(agent.transcript(case.dialogue, len(ends)).encode()), ends, [0])


def turn_of(body):
    """The turn that a completion of `scripted_agent` is asked about."""
    return body["prompt"].count(ord("\n"))


def saying(*texts):
    """What `Completions` answers: the n-th text at turn n, the last one from there on."""
    return lambda body: [texts[min(turn_of(body), len(texts)) - 1]] * body["n"]
