"""The live view: what those who look on are told, second by second, and what they cost."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from analytics_service.live import MAX_LISTENERS, MAX_SHOWN, MAX_WAITING, asker
from event_core.errors import DatabaseUnavailable, Overloaded
from tests.unit.live import START, Watcher, scene
from tests.unit.virtual_time import run


def test_counts_come_each_second_with_the_rate_since_the_second_before() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.store(5)
            watcher = this.watch()
            await asyncio.sleep(0.5)
            this.database.store(30)
            await asyncio.sleep(1)
            this.database.store(10)
            await asyncio.sleep(2)
            counts = watcher.of("counts")
            assert [count["stored_total"] for count in counts] == [5, 35, 45, 45]
            assert watcher.rates[0] is None
            assert watcher.rates[1:] == pytest.approx([30, 10, 0], abs=1)
            assert counts[0]["freshness"]["age_seconds"] == 2.0
            assert counts[0]["freshness"]["watermark"].startswith("2026-01-31T11:59:58.")
            assert counts[0]["asked_at"].startswith("2026-01-31T12:00:00.")

    run(story())


def test_each_event_is_shown_once_newest_first_and_without_what_may_be_huge() -> None:
    async def story() -> None:
        async with scene() as this:
            first = this.database.store(3)
            watcher = this.watch()
            await asyncio.sleep(0.5)
            second = this.database.store(2, user_id="new")
            await asyncio.sleep(3)
            assert watcher.shown == [first, second]
            event = watcher.of("events")[1]["events"][0]
            assert event["user_id"] == "new"
            assert not {"metadata", "context"} & event.keys()

    run(story())


def test_of_very_many_new_events_the_newest_are_shown() -> None:
    async def story() -> None:
        async with scene() as this:
            watcher = this.watch()
            await asyncio.sleep(0.5)
            ids = this.database.store(150)
            await asyncio.sleep(3)
            assert watcher.shown == [ids[:MAX_SHOWN]]

    run(story())


def test_a_late_event_is_shown_though_newer_ones_were() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.store(50)
            watcher = this.watch()
            await asyncio.sleep(0.5)
            late = this.database.store(1, timestamp=START - timedelta(minutes=3))
            await asyncio.sleep(1)
            assert watcher.shown[1:] == [late]

    run(story())


def test_one_who_joins_later_sees_the_present_at_once_and_nothing_twice() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.store(30)
            early = this.watch()
            await asyncio.sleep(1.5)
            later = this.watch()
            await asyncio.sleep(0.1)
            assert len(later.of("counts")) == 1
            assert later.shown == [early.shown[0]]
            new = this.database.store(1)
            await asyncio.sleep(2)
            assert later.shown[1:] == [new] == early.shown[1:]

    run(story())


def test_one_who_comes_back_while_the_database_is_asked_sees_nothing_twice() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.store(5, "a")
            this.watch()
            left = this.watch("a")
            await asyncio.sleep(0.5)
            this.live.leave(left.listener)
            this.database.frozen = True
            await asyncio.sleep(1)  # the poller asks, but not for a
            back = this.watch("a")
            this.database.frozen = False
            await asyncio.sleep(4)
            shown = [event for message in back.shown for event in message]
            assert len(shown) == len(set(shown)) == 5

    run(story())


def test_a_tenants_listener_hears_of_that_tenant_alone() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.store(4, "a")
            ids = this.database.store(2, "b")
            everybody, b, nobody = this.watch(), this.watch("b"), this.watch("nobody")
            await asyncio.sleep(0.5)
            assert b.shown == [ids]
            assert [watcher.of("counts")[0]["stored_total"] for watcher in (everybody, b, nobody)] == [6, 2, 0]
            assert [watcher.of("counts")[0]["tenant_id"] for watcher in (everybody, b, nobody)] == [None, "b", "nobody"]
            assert nobody.shown == []

    run(story())


def test_the_database_is_asked_once_a_second_for_all_and_not_at_all_for_nobody() -> None:
    async def story() -> None:
        async with scene() as this:
            await asyncio.sleep(5)
            assert this.database.asked == []
            watchers = [this.watch("a" if n % 2 else None) for n in range(50)]
            await asyncio.sleep(9.5)
            assert len(this.database.asked) == 10
            assert all(len(watcher.of("counts")) == 10 for watcher in watchers)
            for watcher in watchers:
                this.live.leave(watcher.listener)
            await asyncio.sleep(1.5)
            assert not this.live.polling
            await asyncio.sleep(5)
            assert len(this.database.asked) == 10
            # And again: nothing of what was known then is held against now.
            again = this.watch()
            await asyncio.sleep(1.5)
            assert again.rates == [None, 0.0]

    run(story())


def test_an_outage_is_told_once_and_it_goes_on_by_itself() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.store(10)
            watcher = this.watch()
            await asyncio.sleep(1.5)
            this.database.problem = DatabaseUnavailable("PostgreSQL does not answer")
            await asyncio.sleep(4)
            newcomer = this.watch()
            await asyncio.sleep(1)
            told = {
                "error_code": "database_unavailable",
                "error_message": "PostgreSQL does not answer",
                "retryable": True,
            }
            assert watcher.of("problem") == newcomer.of("problem") == [told]
            before = len(watcher.of("counts"))
            this.database.problem = None
            this.database.store(70)
            await asyncio.sleep(2)
            assert len(watcher.of("counts")) == before + 2
            assert watcher.rates[before] == pytest.approx(70 / 6, abs=2), "over the whole time since the last count"
            assert len(watcher.of("problem")) == 1

    run(story())


def test_a_database_that_does_not_answer_at_all_is_a_problem_too() -> None:
    async def story() -> None:
        async with scene() as this:
            watcher = this.watch()
            await asyncio.sleep(0.5)
            this.database.frozen = True
            await asyncio.sleep(20)
            assert [problem["error_code"] for problem in watcher.of("problem")] == ["unavailable"]
            this.database.frozen = False
            await asyncio.sleep(2)
            assert len(watcher.of("counts")) > 1

    run(story())


def test_a_fault_of_ours_is_told_without_its_details_and_does_not_end_the_stream() -> None:
    async def story() -> None:
        async with scene() as this:
            this.database.problem = KeyError("secret")
            watcher = this.watch()
            await asyncio.sleep(1.5)
            (problem,) = watcher.of("problem")
            assert problem["error_code"] == "internal_error"
            assert "secret" not in str(problem)
            this.database.problem = None
            await asyncio.sleep(1)
            assert watcher.of("counts")

    run(story())


def test_a_listener_that_does_not_read_loses_messages_and_is_told_and_others_are_not_kept_waiting() -> None:
    async def story() -> None:
        async with scene() as this:
            slow = this.live.join(None)
            quick = this.watch()
            await asyncio.sleep(99.5)
            told = len(quick.of("counts"))
            assert told > 95
            watcher = Watcher(slow)
            await asyncio.sleep(0.02)
            lost, *rest = watcher.told
            assert lost == ("lost", {"messages": told - MAX_WAITING})
            assert rest[:MAX_WAITING] == quick.told[told - MAX_WAITING : told], "the newest are kept"

    run(story())


def test_asked_to_stop_every_stream_ends_at_once_even_with_a_frozen_database() -> None:
    async def story() -> None:
        for frozen in (False, True):
            async with scene() as this:
                watchers = [this.watch() for _ in range(3)]
                await asyncio.sleep(0.5)
                this.database.frozen = frozen
                await asyncio.sleep(1)
                this.stop.set()
                await asyncio.sleep(0.5)
                assert all(watcher.ended for watcher in watchers)
                with pytest.raises(Overloaded):
                    this.watch()

    run(story())


def test_there_are_only_so_many_listeners() -> None:
    async def story() -> None:
        async with scene() as this:
            listeners = [this.live.join(None) for _ in range(MAX_LISTENERS)]
            with pytest.raises(Overloaded, match="100"):
                this.live.join(None)
            this.live.leave(listeners[7])
            this.live.leave(listeners[7])
            this.live.join(None)
            assert len(this.live) == MAX_LISTENERS

    run(story())


async def test_the_database_is_asked_for_what_the_topics_need() -> None:
    asked: list[tuple[object, ...]] = []

    async def fetch(name: str, statement: str, *arguments: object) -> list[dict[str, Any]]:
        asked.append((name, *arguments))
        if name == "live_counts":
            tenants: list[Any] = [None, *arguments[0]]  # type: ignore[misc]  # a list here
            return [{"tenant_id": t, "stored": 7, "watermark": None, "asked_at": START} for t in tenants]
        return [{"tenant_id": "b", "event_id": UUID(int=1)}]

    pulse = await asker(fetch)({None})
    assert asked == [("live_counts", []), ("live_events", START - timedelta(minutes=10), 200, None)]
    assert (pulse.stored, len(pulse.newest[None])) == ({None: 7}, 1)
    asked.clear()
    pulse = await asker(fetch)({"b", "a"})
    assert asked == [("live_counts", ["a", "b"]), ("live_events", START - timedelta(minutes=10), 200, ["a", "b"])]
    assert {topic: len(rows) for topic, rows in pulse.newest.items()} == {"a": 0, "b": 1}
