"""llama.cpp's endpoints beside `/completion`: properties, slots, tokens and templates."""

from __future__ import annotations

from typing import Any

import falcon

from .... import __version__
from ....artifacts.errors import RequestError
from ...text.tokenizer import TooManyTokensError
from ..core.generation_params import GenerationParams, check_token_ids
from ..core.job import look_of
from ..core.prompts import MEDIA_MARKER, read_mixed
from ..core.resources import ReadResource, Resource, answer
from ..core.routes import Operation, Route
from ..core.schema import UNSET
from ..core.service import ChatPrompt
from ..core.text_apis import TokenizerApi
from ..native.health import Health
from ..native.schema import HealthDocument
from ..openai import chat_completions
from ..openai.schema import ChatRequest
from .completion import generation_settings
from .requests import DEFAULT_SAMPLING
from .schema import (
    DetokenizeAnswer,
    DetokenizeRequest,
    InputTokensAnswer,
    PropsDocument,
    SlotDocument,
    TemplateAnswer,
    TokenizeAnswer,
    TokenizeRequest,
    TokenizerInfoDocument,
    TokenPiece,
    VersionDocument,
)

MAX_TOKENS = 1 << 18  # of a text that `/tokenize` is given


class Props(ReadResource):
    """`GET /props`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with what a client may want to know before it asks for text."""
        with self.context.models.lease(req.get_param("model")) as lease:
            service = lease.service
            settings = generation_settings(service, GenerationParams(sampling=DEFAULT_SAMPLING), None)
            answer(
                resp,
                PropsDocument(
                    default_generation_settings={"n_ctx": service.engine.max_context, "params": settings},
                    total_slots=self.limits.max_streams,
                    model_alias=service.model.name,
                    model_path=service.model.path,
                    chat_template=service.chat_template.source,
                    build_info=f"rocmforge-{__version__}",
                    modalities={"vision": service.model.sees, "audio": False},
                    media_marker=MEDIA_MARKER if service.model.sees else UNSET,
                ),
            )


class Slots(ReadResource):
    """`GET /slots`: as many as generations may run at once. Nothing of their prompts is told."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with which of them are busy."""
        n_ctx, busy = self.context.models.card(None).context_length, self.context.admission.active
        slots = [SlotDocument(id=i, n_ctx=n_ctx, is_processing=i < busy) for i in range(self.limits.max_streams)]
        answer(resp, slots)


class Tokenize(Resource):
    """`POST /tokenize`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with token ids."""
        body = self.read(req, TokenizeRequest)
        content = body.prompt if body.content is None else body.content
        if content is None:
            raise RequestError("content", "expected it to be there, or prompt, found nothing")
        add_special = body.add_special or False
        if body.content is None:  # vLLM's words, and its default
            add_special = body.add_special_tokens is not False
        texts, parse_special = [content] if isinstance(content, str) else content, body.parse_special is not False
        with self.context.models.lease(body.model) as lease, self.context.admission.enter():
            service = lease.service
            try:
                ids = read_mixed(service, texts, "content", add_special, parse_special, MAX_TOKENS, look_of(req))
            except TooManyTokensError as error:
                problem = f"expected a text of at most {MAX_TOKENS} tokens, found at least {error.count}"
                raise RequestError("content", problem) from None
            tokens: list[int | TokenPiece] = list(ids)
            if body.with_pieces:
                tokens = [_piece(service.tokenizer, token) for token in ids]
            document = TokenizeAnswer(tokens=tokens)
            if body.content is None:
                document.count, document.max_model_len = len(ids), service.engine.max_context
        answer(resp, document)


def _piece(tokenizer: TokenizerApi, token: int) -> TokenPiece:
    exact = tokenizer.token_bytes(token, skip_special=False)
    try:
        return TokenPiece(id=token, piece=exact.decode())
    except UnicodeDecodeError:
        return TokenPiece(id=token, piece=list(exact))


class Detokenize(Resource):
    """`POST /detokenize`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with their text, that of control tokens included."""
        body = self.read(req, DetokenizeRequest)
        with self.context.models.lease(body.model) as lease:
            service = lease.service
            ids = check_token_ids("tokens", body.tokens, service.engine.vocab_size)
            text = service.tokenizer.decode(ids, skip_special=False)
        answer(resp, DetokenizeAnswer(content=text, prompt=text))


class _ChatPromptResource(Resource):
    """What tells of the prompt of a conversation, and takes what `/v1/chat/completions` takes."""

    def prompt(self, req: falcon.Request) -> ChatPrompt:
        """The prompt that the model would read."""
        body = self.read(req, ChatRequest)
        with self.context.models.lease(body.model) as lease, self.context.admission.enter():
            service = lease.service
            call = chat_completions.read_call(body, service.engine.vocab_size)
            return service.chat_prompt(call.conversation, look_of(req))


class ApplyTemplate(_ChatPromptResource):
    """`POST /apply-template`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the prompt that the model would read."""
        answer(resp, TemplateAnswer(prompt=self.prompt(req).text))


class Version(ReadResource):
    """`GET /version`, as vLLM has it."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the version of this server."""
        answer(resp, VersionDocument(version=__version__))


class TokenizerInfo(ReadResource):
    """`GET /tokenizer_info`, as vLLM has it."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with what Transformers would have in `tokenizer_config.json`."""
        with self.context.models.lease(req.get_param("model")) as lease:
            service = lease.service
            config = service.tokenizer.config
            answer(
                resp,
                TokenizerInfoDocument(
                    bos_token=config.bos_token or None,
                    eos_token=config.eos_token or None,
                    add_bos_token=config.add_bos,
                    add_eos_token=config.add_eos,
                    chat_template=service.chat_template.source,
                    model_max_length=service.engine.max_context,
                    vocab_size=config.vocab_size,
                ),
            )


class InputTokens(_ChatPromptResource):
    """`POST /v1/chat/completions/input_tokens`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the number of tokens that the model would read."""
        answer(resp, InputTokensAnswer(input_tokens=len(self.prompt(req).token_ids)))


_MODEL: tuple[tuple[str, dict[str, object]], ...] = (("model", {"type": "string"}),)
ROUTES = [
    Route("/v1/health", Health, get=Operation("The same as /health.", None, HealthDocument), open=True, urgent=True),
    Route(
        "/props",
        Props,
        get=Operation("Properties of server and model.", None, PropsDocument, query=_MODEL),
    ),
    Route("/slots", Slots, get=Operation("Which generations run.", None, list[SlotDocument]), private=True),
    Route("/tokenize", Tokenize, post=Operation("The tokens of a text.", TokenizeRequest, TokenizeAnswer)),
    Route(
        "/detokenize",
        Detokenize,
        post=Operation("The text of tokens.", DetokenizeRequest, DetokenizeAnswer),
    ),
    Route(
        "/apply-template",
        ApplyTemplate,
        post=Operation("A conversation as the model reads it.", ChatRequest, TemplateAnswer),
    ),
    Route(
        "/v1/chat/completions/input_tokens",
        InputTokens,
        post=Operation("How many tokens a conversation is.", ChatRequest, InputTokensAnswer),
        aliases=("/chat/completions/input_tokens",),
    ),
    Route("/version", Version, get=Operation("The version of this server.", None, VersionDocument)),
    Route(
        "/tokenizer_info",
        TokenizerInfo,
        get=Operation("Special tokens and the chat template.", None, TokenizerInfoDocument, query=_MODEL),
    ),
]
