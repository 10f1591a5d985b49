"""Models by name and version: numbers count up and never come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadheat.runtime.errors import InvalidInput, LimitReached, NotFound
from deadheat.scheduler.core import models
from deadheat.scheduler.core.models import Registry, Version, check_name

STEPS = st.lists(
    st.tuples(st.sampled_from(["save", "delete", "clear", "restart"]), st.sampled_from("ab")),
    max_size=40,
)


def saved(registry: Registry, name: str, model_id: str) -> int:
    version = registry.reserve(model_id, name, f"r{model_id}")
    registry.confirm(version)
    return version.number


@given(STEPS)
def test_no_number_comes_twice_whatever_is_deleted(steps: list[tuple[str, str]]) -> None:
    registry = Registry()
    given_out: dict[str, list[int]] = {"a": [], "b": []}
    there: dict[str, set[int]] = {"a": set(), "b": set()}
    for serial, (what, name) in enumerate(steps):
        if what == "save":
            given_out[name].append(saved(registry, name, f"v{serial}"))
            there[name].add(given_out[name][-1])
        elif what == "delete" and there[name]:
            last = registry.find(name).number
            assert last == max(there[name])
            registry.remove(name, last)
            there[name].discard(last)
        elif what == "clear" and there[name]:
            gone = registry.remove(name)
            assert {version.number for version in gone} == there[name]
            there[name].clear()
        elif what == "restart":
            known = [registry.find(n, v) for n in there for v in there[n]]
            registry = Registry.of(known, registry.newest)
    for name, numbers in given_out.items():
        assert numbers == list(range(1, len(numbers) + 1))
        for number in numbers:
            if number in there[name]:
                assert registry.find(name, number).number == number
            else:
                with pytest.raises(NotFound):
                    registry.find(name, number)
    assert len(registry) == sum(map(len, there.values()))


def test_a_version_is_there_when_it_is_durable_and_not_before() -> None:
    registry = Registry()
    first = registry.reserve("v1", "m", "r1")
    second = registry.reserve("v2", "m", "r2")
    assert (first.number, second.number) == (1, 2)
    with pytest.raises(NotFound, match="there is no model 'm'"):
        registry.find("m")
    registry.confirm(second)
    assert registry.find("m") == second
    assert registry.saved_by("r2") == second
    assert registry.saved_by("r1") is None
    with pytest.raises(NotFound, match="has no version 1; there is 2"):
        registry.find("m", 1)


@pytest.mark.parametrize("name", ["", ".", "-m", "a b", "a/b", "ä", "a\n", "x" * 65])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="must be 1 to 64 letters"):
        check_name(name)


def test_limits_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MAX_MODELS", 2)
    monkeypatch.setattr(models, "MAX_NAMES", 1)
    registry = Registry.of([Version("v1", "m", 1, "r1")], {"m": 1})
    with pytest.raises(LimitReached, match="1 names of models were used"):
        registry.reserve("v2", "other", "r2")
    registry.reserve("v2", "m", "r2")
    with pytest.raises(LimitReached, match="2 versions of models are kept"):
        registry.reserve("v3", "m", "r3")
