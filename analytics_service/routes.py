"""The questions as HTTP endpoints: each by GET, and all of them by POST /v1/query."""

# No postponed annotations here: FastAPI reads those of the endpoints that _ask makes.
import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, NamedTuple

from fastapi import APIRouter, Body, FastAPI, Path, Query, Request
from pydantic import BaseModel, Field, create_model
from starlette.responses import Response

from analytics_service.desk import Desk, Replied
from analytics_service.downloads import Download, gone, opened
from analytics_service.errors import InvalidQuery
from analytics_service.examples import EXAMPLES
from analytics_service.exports import MEDIA, disposition
from analytics_service.questions import counts, events
from analytics_service.questions.base import Question, Reply
from analytics_service.questions.experiment import ExperimentParameters, ExperimentQuestion, ExperimentReply
from analytics_service.questions.funnel import FunnelQuestion, FunnelReply
from analytics_service.questions.retention import RetentionQuestion, RetentionReply
from analytics_service.questions.uniques import UniquesQuestion, UniquesReply
from analytics_service.where import WhereReply, event_id_of
from event_core.clock import rfc3339


class ErrorReply(BaseModel):
    """The one shape of every error."""

    error_code: str
    error_message: str
    timestamp: datetime
    request_id: str
    retryable: bool
    details: dict[str, Any] | None = None


class Kind(NamedTuple):
    """A kind of question, and where it is asked by GET."""

    path: str
    question: type[Question]
    reply: type[Reply]
    summary: str
    parameters: type[Question] | None = None
    """What the query string says, where the path says the rest."""
    completed: Callable[[Any, str], Question] | None = None
    """The question of such parameters and the path's own part."""


def _experiment(asked: ExperimentParameters, experiment: str) -> ExperimentQuestion:
    return ExperimentQuestion.model_validate({**asked.model_dump(exclude_unset=True), "experiment": experiment})


KINDS = (
    Kind("/analytics/events/count", counts.CountQuestion, counts.CountReply, "How many events happened"),
    Kind("/analytics/timeseries", counts.TimeseriesQuestion, counts.TimeseriesReply, "Events over time"),
    Kind("/analytics/top", counts.TopQuestion, counts.TopReply, "The most frequent values"),
    Kind("/analytics/users/unique", UniquesQuestion, UniquesReply, "How many different users"),
    Kind("/analytics/funnel", FunnelQuestion, FunnelReply, "How many users come how far"),
    Kind("/analytics/retention", RetentionQuestion, RetentionReply, "How many new users come back"),
    Kind(
        "/analytics/experiments/{experiment:path}",
        ExperimentQuestion,
        ExperimentReply,
        "Which variant does better",
        ExperimentParameters,
        _experiment,
    ),
    Kind("/analytics/events", events.EventsQuestion, events.EventsReply, "The events themselves"),
    Kind(
        "/analytics/users/{user_id:path}/events",
        events.UserEventsQuestion,
        events.EventsReply,
        "A user's events",
        events.UserEventsParameters,
        events.UserEventsParameters.of,
    ),
)

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    422: {
        "model": ErrorReply,
        "description": "The question makes no sense, or costs too much; the message says what to change",
    },
    503: {"model": ErrorReply, "description": "The database is away or busy; `Retry-After` says when to ask again"},
}
_OTHERWISE: dict[int | str, dict[str, Any]] = {
    501: {"model": ErrorReply, "description": "The format needs a package that is not installed"},
    304: {"description": "The answer is the one that `If-None-Match` names"},
}


def question_router(desk: Desk) -> APIRouter:
    """Every question that the service answers."""
    router = APIRouter(tags=["questions"])
    for kind in KINDS:
        router.add_api_route(
            kind.path,
            _ask(desk, kind) if kind.completed is None else _ask_about(desk, kind),
            methods=["GET"],
            summary=kind.summary,
            description=kind.question.__doc__,
            operation_id=kind.question.KIND,
            responses={200: _documented(kind.reply), **_OTHERWISE, **ERRORS},
            response_model=None,
        )
    router.add_api_route(
        "/v1/query",
        _post(desk),
        methods=["POST"],
        summary="Any of the questions, as JSON",
        operation_id="query",
        responses={
            200: _documented(reduce(or_, dict.fromkeys(kind.reply for kind in KINDS))),
            413: {"model": ErrorReply, "description": "The body is larger than any question"},
            **_OTHERWISE,
            **ERRORS,
        },
        response_model=None,
    )
    router.add_api_route(
        "/analytics/events/{event_id}",
        _where(desk),
        methods=["GET"],
        summary="Where is my event",
        description="Stored, set aside (with the reason), gone by retention, or unknown.",
        operation_id="where",
        responses={200: {"model": WhereReply}, **ERRORS},
        response_model=None,
    )
    return router


def show_examples(app: FastAPI) -> None:
    """Real replies as the examples of the OpenAPI document. Put in afterwards: FastAPI would leave out their nulls."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            for operations in plain()["paths"].values():
                for operation in operations.values():
                    name = {"query": "count"}.get(operation["operationId"], operation["operationId"])
                    if name in EXAMPLES:
                        operation["responses"]["200"]["content"]["application/json"]["example"] = EXAMPLES[name][
                            "reply"
                        ]
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _documented(reply: Any) -> dict[str, Any]:
    formats: dict[str, Any] = {media.type.partition(";")[0]: {} for media in MEDIA.values()}
    return {"model": reply, "content": formats}


def _ask(desk: Desk, kind: Kind) -> Callable[..., Awaitable[Response]]:
    question = kind.question

    async def endpoint(
        request: Request,
        asked: Annotated[question, Query()],  # type: ignore[valid-type]  # FastAPI reads it when the endpoint is made
    ) -> Response:
        _check_repeated(request, question)
        return await respond(desk, asked, request)

    return endpoint


def _ask_about(desk: Desk, kind: Kind) -> Callable[..., Awaitable[Response]]:
    parameters, completed = kind.parameters, kind.completed
    assert completed is not None
    # A name may have slashes: hence the path converters.
    place = kind.path.partition("{")[2].partition(":")[0]

    async def endpoint(
        request: Request,
        whose: Annotated[str, Path(alias=place, description="Percent-encoded where it is no plain name")],
        asked: Annotated[parameters, Query()],  # type: ignore[valid-type]  # as above
    ) -> Response:
        _check_repeated(request, kind.question)
        return await respond(desk, completed(asked, whose), request)

    return endpoint


def _where(desk: Desk) -> Callable[..., Awaitable[Response]]:
    async def endpoint(event_id: Annotated[str, Path(description="The event's id, a UUID")]) -> Response:
        return Response(await desk.where(event_id_of(event_id)), media_type="application/json")

    return endpoint


def _post(desk: Desk) -> Callable[..., Awaitable[Response]]:
    posted = [
        create_model(
            f"{kind.question.__name__}Query",
            __base__=kind.question,
            kind=(Literal[kind.question.KIND], ...),  # type: ignore[arg-type]  # a literal that is known when this runs
        )
        for kind in KINDS
    ]
    either: Any = Annotated[reduce(or_, posted), Field(discriminator="kind")]

    async def endpoint(request: Request, asked: Annotated[either, Body()]) -> Response:
        if request.query_params:
            raise InvalidQuery("the body says it all: leave out what follows the question mark")
        return await respond(desk, asked, request)

    return endpoint


def _check_repeated(request: Request, question: type[Question]) -> None:
    """Raises InvalidQuery where a parameter that can have one value has several: FastAPI would take the last."""
    for name in {name for name, _ in request.query_params.multi_items()}:
        field = question.model_fields.get(name)
        if field is not None and "list" not in str(field.annotation) and len(request.query_params.getlist(name)) > 1:
            raise InvalidQuery(f"{name}: given twice: send it once")


async def _unless_gone(asking: Coroutine[Any, Any, Replied], request: Request) -> Replied | None:
    """What is asked; None where the client leaves before: then it is not worked out further."""
    asked = asyncio.create_task(asking)
    left = asyncio.create_task(gone(request.receive))
    try:
        await asyncio.wait({asked, left}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        return None
    finally:
        for task in (asked, left):
            task.cancel()
        await asyncio.wait({asked, left})


async def respond(desk: Desk, question: Question, request: Request) -> Response:
    """The reply, or 304 where the client has it; or the rows as a file."""
    if question.format != "json":
        chunks = await opened(desk.export(question, question.format))
        headers = {"Content-Disposition": disposition(question.KIND, question.format)}
        return Download(chunks, MEDIA[question.format].type, headers)
    replied = await _unless_gone(desk.ask(question), request)
    if replied is None:
        return Response(status_code=499)  # nobody reads it
    headers = {
        "ETag": replied.etag,
        # A late event shows at once: whoever keeps an answer asks whether it still holds.
        "Cache-Control": "private, no-cache",
        "X-Cache": "hit" if replied.cached else "miss",
        "X-Watermark": "unknown" if replied.watermark is None else rfc3339(replied.watermark),
    }
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if request.method == "GET" and (replied.etag in known or "*" in known):
        return Response(status_code=304, headers=headers)
    return Response(replied.body, headers=headers, media_type="application/json")
