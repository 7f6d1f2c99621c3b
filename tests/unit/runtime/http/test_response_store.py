"""Responses that clients name again: each client its own, the oldest go first, and what is deleted is gone whole."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from rocmforge.runtime.http.core.images import MessageImage, with_images
from rocmforge.runtime.http.openai import response_store
from rocmforge.runtime.http.openai.response_schema import ResponseDocument, ResponseTool, TextFormat, TextOptions
from rocmforge.runtime.http.openai.response_store import ResponseStore, StoredResponse
from rocmforge.runtime.pictures.read import GivenImage


def response(name: str, text: str = "hi") -> StoredResponse:
    message: dict[str, object] = {"role": "user", "content": text}
    document = ResponseDocument(id=name, created_at=0, model="m", status="completed", output=[])
    return StoredResponse(document, (message,), {f"item-{name}": message})


def test_what_is_deleted_is_gone_with_its_items() -> None:
    store = ResponseStore()
    store.put("ann", response("one"))
    store.put("ann", response("two", "other"))
    assert store.get("ann", "one") == response("one")
    assert store.item("ann", "item-one") == {"role": "user", "content": "hi"}
    assert store.delete("ann", "one")
    assert store.get("ann", "one") is None
    assert store.item("ann", "item-one") is None
    assert not store.delete("ann", "one")
    assert store.item("ann", "item-two") == {"role": "user", "content": "other"}


def test_clients_do_not_see_each_other() -> None:
    store = ResponseStore()
    store.put("ann", response("one"))
    assert store.get("bob", "one") is None
    assert store.item("bob", "item-one") is None
    assert not store.delete("bob", "one")
    assert store.get("ann", "one") is not None


def test_the_oldest_go_first_with_their_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_store, "KEPT_RESPONSES", 2)
    store = ResponseStore()
    for name in ("one", "two", "three"):
        store.put("ann", response(name))
    assert [store.get("ann", name) is not None for name in ("one", "two", "three")] == [False, True, True]
    assert [store.item("ann", f"item-{name}") is not None for name in ("one", "two", "three")] == [False, True, True]


def test_what_was_answered_takes_room_too() -> None:
    document = response("one").document
    said = dataclasses.replace(response("one"), document=msgspec.structs.replace(document, output=["y" * 500]))
    assert said.cost - response("one").cost == 502  # with its quotes


@pytest.mark.parametrize(
    "given",
    [
        {"metadata": {"a": "y" * 500}},
        {"tools": [ResponseTool(type="web_search", description="y" * 500)]},
        {"text": TextOptions(format=TextFormat(type="json_schema", schema={"const": "y" * 500}))},
    ],
)
def test_what_comes_back_of_the_request_takes_room(given: dict[str, Any]) -> None:
    document = msgspec.structs.replace(response("one").document, **given)
    assert dataclasses.replace(response("one"), document=document).cost - response("one").cost >= 500


def test_room_is_counted_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = response("one", "x" * 1000).cost
    assert cost >= 1000
    monkeypatch.setattr(response_store, "KEPT_CHARS", 2 * cost)
    store = ResponseStore()
    for name in ("one", "two"):
        store.put("ann", response(name, "x" * 1000))
    assert store.delete("ann", "one")
    store.put("ann", response("six", "x" * 1000))  # in the room of the one that was deleted
    assert store.get("ann", "two") is not None
    store.put("ann", response("ten", "x" * 1000))
    assert [store.get("ann", name) is not None for name in ("two", "six", "ten")] == [False, True, True]
    store.put("ann", response("big", "x" * 9000))  # alone it is kept, however large
    assert [store.get("ann", name) is not None for name in ("six", "ten", "big")] == [False, False, True]


def test_images_take_room_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation goes on with its images; another client's are others."""
    monkeypatch.setattr(response_store, "KEPT_IMAGE_CHARS", 2000)
    store = ResponseStore()

    def seen(name: str, *images: MessageImage) -> StoredResponse:
        message = with_images({"role": "user", "content": "hi"}, list(images))
        return dataclasses.replace(response(name), messages=(message,))

    first, second, third = (MessageImage(GivenImage("y" * 1000, "image"), ("image", "no")) for _ in range(3))
    for name in ("one", "two", "three"):
        store.put("ann", seen(name, first))
    store.put("bob", seen("four", second))
    assert [store.get("ann", name) is not None for name in ("one", "two", "three")] == [True] * 3
    store.delete("bob", "four")
    store.put("bob", seen("five", third))  # in the room of the one that was deleted
    assert store.get("ann", "one") is not None
    store.put("bob", seen("six", second))
    assert [store.get("ann", name) is not None for name in ("one", "two", "three")] == [False] * 3
    assert store.get("bob", "five") is not None
