"""What the handlers need: the engine, and the way from a request's text to the engine's tokens."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import EngineBusyError, RequestError, RocmforgeError
from ....artifacts.vision import Vision
from ...engine.embeddings import AdapterScales
from ...engine.generation import Constraint, EngineApi, GenerationRequest
from ...engine.picture_prompt import picture_prompt, text_of
from ...engine.pictures import PlacedPicture
from ...pictures.patches import Piece
from ...pictures.read import read_images
from ...text.answer_format import AnswerFormat, answer_format
from ...text.chat_prompt import Template, render_chat
from ...text.constraints import ConstraintSpec
from ...text.control_text import NoMarkError, shown
from ...text.tokenizer import TooManyTokensError
from .continuation import split_last
from .conversation import Conversation
from .errors import ContextLengthError, UnsupportedError
from .generation_params import SEED_BITS, GenerationParams
from .images import Images, refuse_images, take_images
from .text_apis import ConstraintApi, Look, TokenizerApi
from .token_cache import TokenCache

# Tokens beyond the context that are still counted, to say how much too long a prompt is.
COUNTED_TOKENS = 1 << 16


@dataclass(slots=True)
class DefaultAdapters:
    """The adapters of requests that choose none, with their scales; set while the model is served.

    It is replaced whole: any thread may read it.
    """

    scales: AdapterScales = ()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """How the model presents itself.

    Attributes:
        name: its id on /v1.
        path: absolute path of the bundle.
        size_bytes: all files of the bundle.
        created: Unix seconds.
        metadata: key-value pairs of the GGUF.
        context_length: tokens, as the model was compiled.
        fingerprint: bundle digest, or "".
        aliases: further names that clients may call it.
        parameters: number of weights; 0: unknown.
        quantization: as `Q4_K_M`, or "".
        tensor_count: tensors of the GGUF; 0: unknown.
        vocab_size: token ids.
        weights_bytes: weights as the device holds them.
        adapters: that requests may choose, in the order of their numbers.
        adapter: the one of them that this name chooses; "": none.
        defaults: see `DefaultAdapters`.
        sees: images of a chat.
        template: its chat template, as the model has it or as it is taken to be.
    """

    name: str
    path: str
    size_bytes: int
    created: int
    metadata: Mapping[str, object]
    context_length: int
    fingerprint: str = ""
    aliases: tuple[str, ...] = ()
    parameters: int = 0
    quantization: str = ""
    tensor_count: int = 0
    vocab_size: int = 0
    weights_bytes: int = 0
    adapters: tuple[str, ...] = ()
    adapter: str = ""
    defaults: DefaultAdapters = field(default_factory=DefaultAdapters, compare=False)
    sees: bool = False
    template: str = ""

    @property
    def root(self) -> str:
        """The name of the model, without the adapter."""
        return self.name.removesuffix(f":{self.adapter}") if self.adapter else self.name

    def variants(self) -> list[ServedModel]:
        """The model, and with each of its adapters, as `name:adapter`."""
        found = [self]
        for adapter in self.adapters:
            aliases = tuple(f"{alias}:{adapter}" for alias in self.aliases)
            found.append(replace(self, name=f"{self.name}:{adapter}", aliases=aliases, adapter=adapter))
        return found


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A rendered conversation: its text, its tokens, whether it ends within reasoning, how an answer is read, and the
    pictures whose rows tokens are."""

    text: str
    token_ids: tuple[int, ...]
    inside_reasoning: bool
    answers: AnswerFormat = field(default_factory=AnswerFormat)
    pictures: tuple[PlacedPicture, ...] = ()


def adapters_of(model: ServedModel, given: Sequence[tuple[int, float]]) -> AdapterScales:
    """The names of adapters that a request has by their numbers, the last of equal ones.

    Raises:
        RequestError: the model has no adapter of that number.
    """
    for index, (number, _) in enumerate(given):
        if number >= len(model.adapters):
            have = f"0 to {len(model.adapters) - 1}" if model.adapters else "none, as the model has no adapters"
            raise RequestError(f"lora[{index}].id", f"expected {have}, found {number}")
    return tuple({model.adapters[number]: scale for number, scale in given}.items())


def _hint(messages: Sequence[Mapping[str, object]]) -> str:
    """What may be the matter with messages that a template refuses. Claude Code reads it, and says in the user's
    messages then what it says in such ones."""
    if any(message["role"] == "system" for message in messages[1:]):
        return '; the role "system" behind the first message is not supported by all templates'
    return ""


@dataclass(frozen=True, slots=True)
class Service:
    """A model that is served, with all that belongs to it."""

    engine: EngineApi
    tokenizer: TokenizerApi
    chat_template: Template
    model: ServedModel
    constraints: ConstraintApi | None = None
    vision: Vision | None = None
    cache: TokenCache = field(init=False)
    answers: AnswerFormat = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", TokenCache(self.tokenizer))
        object.__setattr__(self, "answers", answer_format(self.chat_template, self.tokenizer))

    def named(self, card: ServedModel) -> Service:
        """The same, as the model's name with one of its adapters has it."""
        made = copy.copy(self)
        object.__setattr__(made, "model", card)
        return made

    @property
    def adapters(self) -> AdapterScales:
        """Of requests that do not say themselves which: the one of the model's name, else those of `defaults`."""
        return ((self.model.adapter, 1.0),) if self.model.adapter else self.model.defaults.scales

    def prompt_ids(self, text: str, look: Look | None = None, parse_special: bool | None = None) -> tuple[int, ...]:
        """Token ids of a plain prompt, in which control tokens are read unless `parse_special` is false.

        Raises:
            ContextLengthError: it is far too long.
        """
        try:
            return self.cache.encode(text, True, parse_special is not False, self.most_tokens, look)
        except TooManyTokensError as error:
            raise self.too_long(error.count) from None

    @property
    def most_tokens(self) -> int:
        """Of a prompt that are counted before it is refused."""
        return self.engine.max_context + COUNTED_TOKENS

    def too_long(self, count: int, least: int = 1) -> ContextLengthError:
        """That a prompt of so many tokens leaves no room for `least` more."""
        # Clients tell that error from others by llama.cpp's words, "exceeds the available context size".
        limit = self.engine.max_context
        text = f"{count} tokens exceeds the available context size of {limit}"
        return ContextLengthError("prompt", text, count, limit - least, context=limit)

    def chat_prompt(self, conversation: Conversation, look: Look | None = None, most: int | None = None) -> ChatPrompt:
        """A conversation as a prompt.

        Args:
            conversation: to be answered.
            look: see `Look`.
            most: tokens that are counted; None: `most_tokens`.

        Raises:
            ContextLengthError: it has more.
            RequestError: the model's template does not take these messages, or an image of them cannot be read.
            EngineBusyError: it is busy with others.
        """
        plain, given = take_images(conversation.messages)
        images = self._images(given)
        messages, begun = split_last(replace(conversation, messages=plain))
        try:
            chat = render_chat(
                messages,
                conversation.usable_tools,
                conversation.template_variables,
                self.chat_template,
                self.tokenizer.control_texts,
                begun,
                conversation.generation_prompt,
            )
        except NoMarkError:
            raise RequestError("messages", "expected not every character that is for private use") from None
        except EngineBusyError:
            raise
        except RocmforgeError as error:
            raise RequestError("messages", f"{error}{_hint(messages)}") from None
        add_special = chat.add_special(self.tokenizer.config.bos_token)
        most = most or self.most_tokens

        def encode(text: str, first: bool) -> tuple[int, ...]:
            return self.cache.encode(text, first and add_special, True, most, look, chat.mark)

        try:
            if self.vision is None or not images:
                return ChatPrompt(
                    shown(chat.text, chat.mark), encode(chat.text, True), chat.inside_reasoning, self.answers
                )
            if missing := [one.given.name for one in given if one.given.mark not in chat.text]:
                raise RequestError(missing[0], "the model's chat template leaves this image out")
            ids, pictures = picture_prompt(chat.text, images, self.vision, encode)
        except TooManyTokensError as error:
            raise self.too_long(error.count) from None
        text = shown(text_of(chat.text, images), chat.mark)
        return ChatPrompt(text, ids, chat.inside_reasoning, self.answers, pictures)

    def _images(self, given: Images) -> dict[str, list[Piece]]:
        """What becomes of images in a prompt, by their marks.

        Raises:
            RequestError: the model reads text alone, or one cannot be read.
        """
        if self.vision is None:
            refuse_images(given)
            return {}
        return read_images([one.given for one in given], self.vision)

    def requests(
        self,
        prompt: tuple[int, ...],
        params: GenerationParams,
        default_max_tokens: int | None,
        count: int,
        kept_tokens: tuple[int, ...] = (),
        pictures: tuple[PlacedPicture, ...] = (),
    ) -> list[GenerationRequest]:
        """`request`, for several outputs of one prompt: with a seed, each has one of its own, the first that seed.

        Control tokens that are kept have their text in the outputs; the pictures are those of the prompt.

        Raises:
            RequestError: see `request`.
        """
        seed = params.sampling.seed
        made = []
        for index in range(count):
            own = params
            if index and seed is not None:
                own = replace(params, sampling=replace(params.sampling, seed=(seed + index) % 2**SEED_BITS))
            made.append(self.request(prompt, own, default_max_tokens, kept_tokens, pictures))
        return made

    def request(
        self,
        prompt: tuple[int, ...],
        params: GenerationParams,
        default_max_tokens: int | None,
        kept_tokens: tuple[int, ...] = (),
        pictures: tuple[PlacedPicture, ...] = (),
    ) -> GenerationRequest:
        """Make the engine's request, if it fits into the context.

        Args:
            prompt: token ids.
            params: as the client gave them.
            default_max_tokens: where the client gave none, cut to what the context leaves; None: all of it.
            kept_tokens, pictures: see `GenerationRequest`.

        Raises:
            ContextLengthError: prompt, or prompt and the `max_tokens` asked for, exceed the context.
            RequestError: the constraint on the output is wrong, or beyond the limits.
        """
        limit = self.engine.max_context
        room = limit - len(prompt)
        asked = params.max_tokens
        least = 0 if asked == 0 else 1
        if room < least:
            raise self.too_long(len(prompt), least)
        if asked is not None and asked > room:
            raise ContextLengthError(
                "max_tokens",
                f"expected at most {room}, found {asked}: "
                f"with a prompt of {len(prompt)} tokens that exceeds the available context size of {limit}",
                len(prompt),
                limit,
                asked,
            )
        if asked is None:
            asked = room if default_max_tokens is None else min(default_max_tokens, room)
        return GenerationRequest(
            prompt,
            asked,
            params.sampling,
            params.stop,
            params.ignore_eos,
            params.stop_token_ids,
            params.logprobs,
            self._constraint(params.constraint),
            prompt_logprobs=params.prompt_logprobs,
            kept_tokens=kept_tokens,
            pictures=pictures,
            adapters=adapters_of(self.model, params.lora) if params.lora else self.adapters,
        )

    def _constraint(self, spec: ConstraintSpec | None) -> Constraint | None:
        if spec is None:
            return None
        if self.constraints is None:
            raise UnsupportedError(spec.parameter)
        return self.constraints.compile(spec)
