"""A request's generations, from their submission to their end, on behalf of a client that may leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import falcon

from ...engine.generation import Generation, GenerationRequest, TokenEvent, events_of
from .access import cache_space_of, client_of
from .admission import Admission, Slot
from .errors import ClientGoneError
from .limits import HttpLimits
from .logprobs import check_scores
from .registry import Lease


class Job:
    """Generations, the slot and the model that they occupy, and the client that waits for them.

    Used by one thread at a time. `close` must be called, and cancels what is unfinished.
    """

    def __init__(
        self,
        generations: Sequence[Generation],
        slot: Slot,
        lease: Lease,
        gone: Callable[[], bool],
        admission: Admission,
    ) -> None:
        self.generations = generations
        self.lease = lease
        self._slot = slot
        self._gone = gone
        self._admission = admission
        self._unfinished = len(generations)
        self._closed = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; one that has several outputs counts once."""
        return self.generations[0].state().prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Of the first prompt, that lay in the prefix cache."""
        return self.generations[0].state().cached_tokens

    def events(self, poll_seconds: float) -> Iterator[TokenEvent | None]:
        """Yield events of all generations until the last has finished, and None at least every `poll_seconds`.

        Raises:
            ClientGoneError: the client hung up.
        """
        for event in events_of(self.generations, timeout=poll_seconds):
            if event is not None:
                self.took(event)
            if not self.ended:
                self.look()
            yield event

    def took(self, event: TokenEvent) -> None:
        """An event has been read."""
        self._unfinished -= event.finished

    @property
    def ended(self) -> bool:
        """Whether the last events of all generations have been read."""
        return not self._unfinished

    @property
    def aborted(self) -> bool:
        """Whether the server ends, and `look` would cancel the generations."""
        return self._admission.aborted

    def look(self) -> None:
        """Look whether somebody still wants the answer; where the server ends, the generations are cancelled.

        Raises:
            ClientGoneError: the client hung up.
        """
        if self._gone():
            raise ClientGoneError
        if self.aborted:
            self._cancel()

    def _cancel(self) -> None:
        for generation in self.generations:
            generation.cancel()

    def close(self) -> None:
        """Cancel the generations unless they have finished, and give slot and model back."""
        if not self._closed:
            self._closed = True
            if self._unfinished:
                self._cancel()
            self.generations[0].inbox.close()
            self._slot.release()
            self.lease.release()


def start_job(
    req: falcon.Request,
    lease: Lease,
    admission: Admission,
    make: Callable[[], Sequence[GenerationRequest]],
) -> Job:
    """Take a slot, make the requests (rendering and tokenizing, which take time), and submit them.

    The lease is given back where this fails, else by the job.

    Raises:
        RequestError: the request cannot be served.
        EngineBusyError: no slot, or no room in the engine's queue.
    """
    try:
        slot = admission.enter()
    except BaseException:
        lease.release()
        raise
    try:
        who, space = client_of(req), cache_space_of(req)
        requests = [dataclasses.replace(request, client=who, cache_space=space) for request in make()]
        admission.check(requests)
        check_scores(requests)
        generations = lease.service.engine.submit_all(requests)
    except BaseException:
        slot.release()
        lease.release()
        raise
    return Job(generations, slot, lease, gone_of(req), admission)


def gone_of(req: falcon.Request) -> Callable[[], bool]:
    """What says whether the client has hung up."""
    gone: Callable[[], bool] = req.env.get("waitress.client_disconnected", _never)
    return gone


def look_of(req: falcon.Request) -> Callable[[], None]:
    """What raises `ClientGoneError` once the client has hung up."""
    gone = gone_of(req)

    def look() -> None:
        if gone():
            raise ClientGoneError

    return look


def _never() -> bool:
    return False


def collect(
    job: Job, limits: HttpLimits, arrived: Callable[[TokenEvent], None] = lambda event: None
) -> list[TokenEvent]:
    """Wait for the end of all generations; returns their events, each of which `arrived` is told of when it comes.

    Raises:
        ClientGoneError: the client hung up, and the generations were cancelled.
    """
    try:
        events = []
        for event in job.events(limits.poll_seconds):
            if event is not None:
                arrived(event)
                events.append(event)
        return events
    finally:
        job.close()
