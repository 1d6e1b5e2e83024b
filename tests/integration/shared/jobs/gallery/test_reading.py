"""Windows of the gallery: filters, search, offsets and cursors, while videos are added; and videos of before."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete

from scheduler import ticks
from shared import clock
from shared.database.engine import Database
from shared.database.tables import Video, VideoLora
from shared.errors import NotFound
from shared.jobs import records
from shared.jobs.ending import videos
from shared.jobs.gallery import collections, favourites, filling, reading
from shared.jobs.gallery.reading import Filter, Window
from tests.conftest import both_databases
from tests.integration.shared.database.test_plans import all_of
from tests.support.jobs import accepted
from tests.support.videos import finished, listed, stored

pytestmark = both_databases


def window(database: Database, offset: int = 0, limit: int = 100, **which: Any) -> Window:
    place = {name: which.pop(name) for name in ("after", "as_of") if name in which}
    return reading.window(database, Filter(**{"holder": "me", **which}), offset=offset, limit=limit, **place)


def ids_of(found: Window) -> list[str]:
    return [one.job.id for one in found.videos]


def test_each_filter_and_all_of_them_together(database: Database) -> None:
    style = {"request": {"loras": [{"name": "style"}]}}
    old = stored(database, ["old boat"], until=clock.now() - timedelta(days=2), owner="other")[0]
    plain = finished(database, "A Paper BOAT", owner="other").id
    styled = finished(database, "an ÉTUDE of boats", owner="me", model_id="TI2V-5B", **style).id
    accepted(database, prompt="a boat that waits")
    boats = collections.create(database, "me", "boats")
    collections.change(database, "me", boats.id, add=[plain, styled])
    favourites.mark(database, "me", styled)
    day_ago = clock.now() - timedelta(days=1)
    for which, expected in (
        ({}, [styled, plain, old]),
        ({"only": "other"}, [plain, old]),
        ({"model_id": "TI2V-5B"}, [styled]),
        ({"size": "64x64"}, [styled, plain, old]),
        ({"size": "1x1"}, []),
        ({"lora": "style"}, [styled]),
        ({"lora": "style", "only": "other"}, []),
        ({"lora": "style", "model_id": "T2V-A14B"}, []),
        ({"favourite": True}, [styled]),
        ({"favourite": True, "only": "other"}, []),
        ({"favourite": True, "holder": "nobody"}, []),
        ({"collection_id": boats.id}, [styled, plain]),
        ({"collection_id": boats.id, "favourite": True, "lora": "style"}, [styled]),
        ({"finished_after": day_ago}, [styled, plain]),
        ({"finished_before": day_ago}, [old]),
        ({"words": ("boat", "paper")}, [plain]),
        ({"words": (videos.folded("éTUDE"),)}, [styled]),
        ({"words": ("%",)}, []),
        ({"words": ("boat",), "collection_id": boats.id, "only": "me", "size": "64x64"}, [styled]),
    ):
        found = window(database, **which)
        assert (ids_of(found), found.total) == (expected, len(expected)), which
    marks = {one.job.id: (one.favourite, list(one.collections)) for one in window(database).videos}
    assert marks == {styled: (True, [boats.id]), plain: (False, [boats.id]), old: (False, [])}
    assert reading.choices(database, None) == reading.Choices(["64x64"], ["style"])
    assert reading.choices(database, "other") == reading.Choices(["64x64"], [])
    with pytest.raises(NotFound):
        window(database, holder="nobody", collection_id=boats.id)


def test_windows_stay_in_place_while_videos_are_added(database: Database) -> None:
    known = stored(database, ["x"] * 30, until=clock.now() - timedelta(minutes=1))[::-1]
    first = window(database, 0, 10)
    assert (ids_of(first), first.total, first.has_more) == (known[:10], 30, True)
    new = finished(database, "x").id
    second = window(database, 10, 10, as_of=first.as_of)
    assert (ids_of(second), second.total) == (known[10:20], 30)
    assert ids_of(window(database, 25, 10, as_of=first.as_of, words=("x",))) == known[25:]
    assert ids_of(window(database, 0, 2)) == [new, known[0]]
    seen, after = [], None
    while True:
        page = window(database, 0, 7, after=after, words=("x",))
        seen += ids_of(page)
        if not page.has_more:
            break
        after = page.last
    assert seen == [new, *known]
    assert ids_of(window(database, 0, 3, after=first.last)) == known[10:13]


def test_what_is_not_counted_or_looked_through_is_said(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(database, ["rare", *["x"] * 29])
    monkeypatch.setattr(reading, "MOST", 20)
    monkeypatch.setattr(reading, "LOOKED_THROUGH", 10)
    whole = window(database)
    assert (whole.total, whole.is_more, whole.looked_through) == (20, True, None)
    searched = window(database, words=("rare",))
    assert (searched.total, searched.is_more, searched.looked_through) == (0, False, 10)
    all_of_it = window(database, words=("x",), finished_after=clock.now() - timedelta(seconds=5))
    assert all_of_it.looked_through is None


def test_deleted_jobs_leave(database: Database) -> None:
    job = finished(database)
    records.remove(database, job.id)
    assert ids_of(window(database)) == []


def test_videos_of_before_are_added_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "AT_ONCE", 3)
    known = stored(database, ["x"] * 8)
    finished(database, "y", request={"loras": [{"name": "style"}]})
    records.remove(database, known.pop())
    before = listed(database)
    with database.write() as session:
        for table in (Video, VideoLora):
            session.connection().execute(delete(table))
    assert ticks.fill_gallery(database) == 8
    assert listed(database) == before
    assert reading.choices(database, None).loras == ["style"]
    assert ticks.fill_gallery(database) == 0
    late = finished(database, "ended by a process of the version before")
    with database.write() as session:
        session.connection().execute(delete(Video).where(Video.job_id == late.id))  # type: ignore[arg-type]
    assert ticks.fill_gallery(database) == 1


def test_no_window_reads_the_table_of_jobs(database: Database) -> None:
    stored(database, ["x"] * 300)
    by_id = {"sqlite_autoindex_jobs_1", "jobs_pkey", "whole table"}  # PostgreSQL reads so small a table whole
    assert all_of(database, lambda: window(database, words=("x",))) <= by_id
