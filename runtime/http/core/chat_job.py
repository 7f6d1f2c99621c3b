"""A conversation handed to the engine."""

from __future__ import annotations

import falcon

from ...engine.generation import GenerationRequest
from .admission import Admission
from .chat_answer import AnswerReader
from .conversation import Conversation
from .job import Job, look_of, start_job
from .registry import Lease
from .service import ChatPrompt


def start_chat(
    req: falcon.Request, lease: Lease, admission: Admission, conversation: Conversation, count: int = 1
) -> tuple[Job, ChatPrompt, list[AnswerReader]]:
    """Take a slot, render and tokenize, and submit `count` requests for answers; the lease is the job's from then on.

    Returns:
        The job, the prompt, and what reads each answer.

    Raises:
        RequestError: the request cannot be served.
        EngineBusyError: no slot, or no room in the engine's queue.
    """
    prompts: list[ChatPrompt] = []

    def make() -> list[GenerationRequest]:
        params = conversation.constrained(lease.service.answers)
        prompts.append(lease.service.chat_prompt(conversation, look_of(req)))
        kept, pictures = prompts[0].answers.kept_tokens, prompts[0].pictures
        return lease.service.requests(prompts[0].token_ids, params, None, count, kept, pictures)

    job = start_job(req, lease.keep(), admission, make)
    readers = [AnswerReader(conversation, prompts[0]) for _ in range(count)]
    return job, prompts[0], readers
