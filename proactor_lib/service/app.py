"""The endpoint: OpenAI's chat completions, turns of growing transcripts, and a page to try it on."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from proactor_lib.schema import Catalog
from proactor_lib.service import replies, requests
from proactor_lib.service.agent_service import AgentService
from proactor_lib.service.errors import ApiError
from proactor_lib.service.guard import Guard, Limits
from proactor_lib.service.memory import Talk
from proactor_lib.service.requests import ChatRequest, TurnsRequest

SESSION = "x-session-id"  # the header that names a conversation; `metadata.conversation` does too
FORGOTTEN = "nothing is remembered of this conversation (the service was started again, or it was long ago): " \
            "only the calls in the messages count as executed"  # fmt: skip


def make_app(service: AgentService, limits: Limits, model: str = "proactor") -> Guard:
    """The ASGI app. `model`: the name that requests carry."""

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.close()

    endpoint = _Endpoint(service, model)
    routes = [
        Route("/", endpoint.page),
        Route("/health", endpoint.health),
        Route("/v1/models", endpoint.models),
        Route("/v1/chat/completions", endpoint.chat, methods=["POST"]),
        Route("/v1/proactor/turns", endpoint.turns, methods=["POST"]),
        Route("/v1/proactor/catalog", endpoint.catalog),
    ]
    handlers = {ApiError: _refusal, 404: _no_such_path, 405: _no_such_path, Exception: _fault}
    return Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=life), limits)


async def _refusal(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, dict(error.headers))


async def _no_such_path(request: Request, error) -> Response:
    accepted = "/v1/chat/completions, /v1/proactor/turns (POST), /v1/models, /v1/proactor/catalog, /health (GET)"
    problem = ApiError(error.status_code, f"{request.method} {request.url.path} is not served; accepted: {accepted}")
    return await _refusal(request, problem)


async def _fault(request: Request, error: Exception) -> Response:
    return await _refusal(request, ApiError(503, f"{type(error).__name__} in the service: see its log"))


class _Endpoint:
    def __init__(self, service: AgentService, model: str):
        self._service, self._model = service, model
        self._page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")

    async def page(self, request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        return HTMLResponse(self._page, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self._model, "object": "model", "created": 0,
                                                         "owned_by": "proactor"}]})  # fmt: skip

    async def catalog(self, request: Request) -> Response:
        return JSONResponse(self._service.catalog.model_dump(mode="json"))

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completion at the last turn of `messages`."""
        asked: ChatRequest = requests.read(ChatRequest, await request.body())
        if asked.model != self._model:
            raise ApiError(404, f"no model {asked.model!r} here; accepted: {self._model}", "model_not_found", "model")
        catalog = asked.shown(self._service.catalog)
        turns, calls = asked.heard(catalog)
        id = request.headers.get(SESSION) or (asked.metadata or {}).get("conversation")
        talk = self._service.memory.named(id, turns) if id else self._service.memory.of_turns(turns, catalog)
        remembered = talk.common(turns)
        talk.turns.extend(turns[len(talk.turns) :])
        answer = await self._service.answer(talk, len(turns), catalog, calls)
        about = {"conversation": talk.id, "remembered": remembered,
                 "notice": FORGOTTEN if id and remembered == 0 and len(turns) > 1 else None}  # fmt: skip
        made = replies.Completion(self._model, talk, answer, catalog, about)
        if not asked.stream:
            return JSONResponse(made.whole())
        usage = bool((asked.stream_options or {}).get("include_usage"))
        return _stream([*made.chunks(usage), "[DONE]"])

    async def turns(self, request: Request) -> Response:
        """Further turns of a named conversation: an answer for each."""
        asked: TurnsRequest = requests.read(TurnsRequest, await request.body())
        catalog, talk = asked.shown(self._service.catalog), self._service.memory.named(asked.conversation)
        remembered = len(talk.turns)
        first = _added(talk, asked)
        numbers = range(first, first + len(asked.turns))
        about = {"conversation": talk.id, "remembered": remembered}
        if asked.stream:
            return _ClosingStream(self._events(talk, numbers, catalog, about), media_type="text/event-stream")
        answers = [answer async for answer in self._answers(talk, numbers, catalog, remembered)]
        return JSONResponse({**about, "turns": len(talk.turns), "answers": answers})

    async def _answers(self, talk: Talk, numbers: range, catalog: Catalog, remembered: int) -> AsyncIterator[dict]:
        """An answer per turn. However this ends, added turns without one are taken back: they come again."""
        unanswered = numbers[0]
        try:
            for number in numbers:
                answer = await self._service.answer(talk, number, catalog)
                unanswered = number + 1
                yield replies.turn(answer)
        finally:
            talk.take_back(max(unanswered, remembered + 1), numbers[-1])

    async def _events(self, talk: Talk, numbers: range, catalog: Catalog, about: dict[str, Any]) -> AsyncIterator[str]:
        """An event per turn as soon as it is answered; an error ends them."""
        try:
            async with aclosing(self._answers(talk, numbers, catalog, about["remembered"])) as answers:
                async for answer in answers:
                    yield replies.event({**about, **answer})
        except ApiError as error:
            yield replies.event(error.body())
        yield replies.event("[DONE]")


class _ClosingStream(StreamingResponse):
    """Its events are closed when the reader leaves: starlette leaves that to the garbage collector."""

    async def __call__(self, scope, receive, send) -> None:
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


def _added(talk: Talk, asked: TurnsRequest) -> int:
    """Add the turns that are new; the number of the request's first. ApiError (409) where they do not continue."""
    heard, first = len(talk.turns), asked.begin or len(talk.turns) + 1
    if first > heard + 1:
        raise ApiError(409, f"of conversation {talk.id!r} {heard} turns are remembered, so that it cannot go on from "
                            f"turn {first} (the service was started again, or it was long ago): send it from turn "
                            f"{heard + 1}", "conversation_forgotten", "from")  # fmt: skip
    known = talk.turns[first - 1 :][: len(asked.turns)]
    if known != asked.turns[: len(known)]:
        raise ApiError(409, f"conversation {talk.id!r} has other turns from turn {first} on: take another name",
                       "conversation_differs", "turns")  # fmt: skip
    talk.turns.extend(asked.turns[len(known) :])
    return first


def _stream(values: list[Any]) -> Response:
    return StreamingResponse((replies.event(v) for v in values), media_type="text/event-stream")
