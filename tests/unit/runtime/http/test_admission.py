"""Who may generate: so many at once, none once the server stops, no prompt that is too long."""

from __future__ import annotations

import pytest

from rocmforge.artifacts.errors import EngineBusyError
from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.http.core.admission import Admission
from rocmforge.runtime.http.core.errors import ContextLengthError


def test_as_many_as_there_is_room_for() -> None:
    admission = Admission(2)
    with admission.enter() as first, admission.enter():
        assert admission.active == 2
        with pytest.raises(EngineBusyError) as caught:
            admission.enter()
        assert str(caught.value) == "2 requests are being served, the most at a time"
        first.release()
        first.release()  # once is enough
        assert admission.active == 1
        admission.enter().release()
    assert admission.active == 0


def test_none_once_the_server_stops() -> None:
    admission = Admission(2)
    slot = admission.enter()
    assert (admission.closed, admission.aborted) == (False, False)
    admission.close()
    assert (admission.closed, admission.aborted, admission.active) == (True, False, 1)
    with pytest.raises(EngineBusyError, match=r"^the server is stopping$"):
        admission.enter()
    admission.abort()
    assert (admission.closed, admission.aborted) == (True, True)
    slot.release()
    other = Admission(1)
    other.abort()
    assert (other.closed, other.aborted) == (True, True)


def test_the_longest_prompt_of_several_is_held_to_the_limit() -> None:
    requests = [GenerationRequest((1,) * length, 1) for length in (3, 5, 4)]
    Admission(1, 5).check(requests)
    Admission(1).check(requests)
    Admission(1, 5).check([])
    with pytest.raises(ContextLengthError) as caught:
        Admission(1, 4).check(requests)
    assert str(caught.value) == "prompt: expected at most 4 tokens (the server's limit), found 5"
