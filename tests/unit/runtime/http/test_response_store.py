"""Responses that clients name again: each client its own, the oldest go first, and what is deleted is gone whole."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from rocmforge.runtime.http.openai import response_store
from rocmforge.runtime.http.openai.response_schema import ResponseDocument
from rocmforge.runtime.http.openai.response_store import ResponseStore, StoredResponse


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
