"""Ollama's endpoints about models: what is here, what is loaded, embeddings; and those that would change models."""

from __future__ import annotations

import re
import time
from typing import Any, NoReturn

import falcon

from .... import __version__
from ....artifacts.errors import RequestError, printable
from ...text.chat_formats import format_of
from ..core import model_card
from ..core.answer_clock import AnswerClock
from ..core.embeddings import Embedded, check_dimensions, embed, token_ids
from ..core.encoding import ndjson
from ..core.errors import NotFoundError, UnsupportedError
from ..core.job import look_of
from ..core.registry import keep
from ..core.resources import ReadResource, Resource, answer
from ..core.routes import Operation, Route
from ..core.schema import UNSET, Json
from ..core.service import ServedModel, Service
from ..core.streaming import NDJSON
from .requests import keep_seconds
from .schema import (
    Details,
    EmbedAnswer,
    EmbeddingsAnswer,
    ModelRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    RunningList,
    RunningModel,
    ShowAnswer,
    StatusLine,
    Tag,
    TagList,
    Version,
)

FAR, FAR_SECONDS = "9999-12-31T23:59:59Z", 1e10  # when a model expires that never does; in seconds, three centuries


def tagged(name: str) -> str:
    """A name as Ollama lists it: with a tag, `latest` where it has none. It is served under either."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def details_of(model: ServedModel) -> Details:
    """What a model is."""
    family = model_card.architecture(model)
    return Details(
        parent_model="",
        format="gguf",
        family=family,
        families=[family],
        parameter_size=model_card.parameters_text(model),
        quantization_level=model.quantization or "unknown",
    )


class Tags(ReadResource):
    """`GET /api/tags`, and `/v1/api/tags` for clients that add it to a base of /v1."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with all models."""
        answer(resp, TagList(models=[_tag(model) for model in self.context.models.cards()]))


def _tag(model: ServedModel) -> Tag:
    return Tag(
        name=tagged(model.name),
        model=tagged(model.name),
        modified_at=model_card.modified_at(model),
        size=model.size_bytes,
        digest=model_card.digest(model),
        details=details_of(model),
    )


class Running(ReadResource):
    """`GET /api/ps`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the models that are loaded."""
        models = self.context.models
        running = [_running(service, models.expires_in(service.model.name)) for service in models.loaded()]
        answer(resp, RunningList(models=running))


def _running(service: Service, expires_in: float | None) -> RunningModel:
    model = service.model
    seconds = expires_in or 0.0
    return RunningModel(
        name=tagged(model.name),
        model=tagged(model.name),
        size=model.size_bytes,
        digest=model_card.digest(model),
        details=details_of(model),
        expires_at=model_card.rfc3339(time.time() + seconds) if seconds < FAR_SECONDS else FAR,
        size_vram=model.size_bytes,  # the weights lie whole on their device
        context_length=service.engine.max_context,
    )


class OllamaVersion(ReadResource):
    """`GET /api/version`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the integers of ours: clients split them at the dots."""
        found = re.match(r"\d+(\.\d+)*", __version__)
        answer(resp, Version(version=found[0] if found else "0.0.0"))


class Show(Resource):
    """`POST /api/show`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with what there is to know of a model, which need not be loaded for it."""
        body = self.read(req, ModelRequest)
        answer(resp, _show(self.context.models.card(_name(body))))


def _name(body: ModelRequest) -> str:
    name = body.model or body.name
    if not name:
        raise RequestError("model", "expected the name of a model, found nothing")
    return name


def _show(model: ServedModel) -> ShowAnswer:
    license_name = model.metadata.get("general.license")
    return ShowAnswer(
        modelfile=f"# {model_card.display_name(model)}\nFROM {model.path}\n",
        parameters=f"num_ctx                        {model.context_length}",
        template=model.template,
        details=details_of(model),
        model_info=_model_info(model),
        capabilities=capabilities(model.template, model.sees),
        modified_at=model_card.modified_at(model),
        license=license_name if isinstance(license_name, str) else UNSET,
    )


def _model_info(model: ServedModel) -> Json:
    """Metadata of the GGUF; the context is that of the bundle, as clients fit their prompts to it."""
    family = model_card.architecture(model)
    return {
        "general.architecture": family,
        "general.parameter_count": model.parameters,
        **model.metadata,
        f"{family}.context_length": model.context_length,
    }


def capabilities(template: str, sees: bool = False) -> list[str]:
    """What a model can do, in Ollama's words. Tools are told to every model, by its template or in plain text."""
    form = format_of(template)
    thinks = form.channels is not None or form.reasoning.open in template or "enable_thinking" in template
    return ["completion", "tools", "embedding", *["thinking"] * thinks, *["vision"] * sees]


class OllamaEmbed(Resource):
    """`POST /api/embed`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with a vector a text."""
        clock = AnswerClock()
        body = self.read(req, OllamaEmbedRequest)
        check_dimensions(self.context.models.card(body.model), body.dimensions)
        embedded = Embedded([], 0)
        if body.input:  # without, Ollama loads the model and gives no vectors
            embedded = _embed(self, req, body, body.input, "input", body.truncate is not False, clock)
        answer(
            resp,
            EmbedAnswer(
                model=body.model,
                embeddings=[vector.tolist() for vector in embedded.vectors],
                total_duration=clock.durations().total,
                load_duration=clock.durations().load,
                prompt_eval_count=embedded.tokens,
            ),
        )


class OllamaEmbeddings(Resource):
    """`POST /api/embeddings`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with one vector; with none where there is no prompt."""
        body = self.read(req, OllamaEmbeddingsRequest)
        vector: list[float] = []
        if body.prompt:
            embedded = _embed(self, req, body, body.prompt, "prompt", True, AnswerClock())
            vector = embedded.vectors[0].tolist()
        else:  # Ollama loads the model
            self.context.models.card(body.model)
        answer(resp, EmbeddingsAnswer(embedding=vector))


def _embed(
    resource: Resource,
    req: falcon.Request,
    body: OllamaEmbedRequest | OllamaEmbeddingsRequest,
    value: object,
    parameter: str,
    truncate: bool,
    clock: AnswerClock,
) -> Embedded:
    context, seconds = resource.context, keep_seconds(body.keep_alive)
    with context.models.lease(body.model) as lease:
        keep(req, context.models, body.model, seconds)
        clock.loaded()
        return embed(
            req,
            lease,
            context,
            body.pooling,
            lambda: token_ids(lease.service, value, parameter, context, look_of(req), truncate),
        )


class Pull(Resource):
    """`POST /api/pull`: succeeds for a model that is here; nothing is ever fetched."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with statuses, the last of them `success`."""
        body = self.read(req, ModelRequest)
        name = _name(body)
        try:
            self.context.models.card(name)
        except NotFoundError as error:
            known = f"model {printable(name, 100)} is not here and cannot be pulled: compile it with `rfc compile`"
            raise NotFoundError(known, error.parameter, error.code) from None
        lines = [StatusLine(status="pulling manifest"), StatusLine(status="success")]
        if body.stream is False:
            answer(resp, lines[-1])
            return
        resp.content_type = NDJSON
        resp.data = b"".join(map(ndjson, lines))


class Unsupported(Resource):
    """Endpoints that would change the models that are served."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Refuse; the body is not read."""
        _refuse_change(req)


class Delete(Resource):
    """`DELETE /api/delete`."""

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Refuse; the body is not read."""
        _refuse_change(req)


def _refuse_change(req: falcon.Request) -> NoReturn:
    raise UnsupportedError(req.path, "not supported: models are made with `rfc compile` and named to `rfc serve`")


_REFUSED = Operation("Not supported: answers 400.", Json, Json)
ROUTES = [
    Route("/api/tags", Tags, get=Operation("The models.", None, TagList)),
    Route("/v1/api/tags", Tags, get=Operation("The same as /api/tags.", None, TagList)),
    Route("/api/ps", Running, get=Operation("The models that are loaded.", None, RunningList)),
    Route("/api/version", OllamaVersion, get=Operation("The version.", None, Version)),
    Route("/api/show", Show, post=Operation("A model.", ModelRequest, ShowAnswer), forwarded=True),
    Route(
        "/api/embed",
        OllamaEmbed,
        post=Operation("Turn texts into vectors.", OllamaEmbedRequest, EmbedAnswer),
        forwarded=True,
    ),
    Route(
        "/api/embeddings",
        OllamaEmbeddings,
        post=Operation("Turn a text into a vector.", OllamaEmbeddingsRequest, EmbeddingsAnswer),
        forwarded=True,
    ),
    Route(
        "/api/pull",
        Pull,
        post=Operation(
            "Whether a model is here.", ModelRequest, StatusLine, stream=StatusLine, stream_media_type=NDJSON
        ),
    ),
    *(Route(f"/api/{name}", Unsupported, post=_REFUSED) for name in ("create", "copy", "push")),
    Route("/api/delete", Delete, delete=_REFUSED),
]
