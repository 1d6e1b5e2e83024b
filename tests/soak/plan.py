"""The plan of a run: every job with its client's actions, and every fault. Determined by the seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODELS = ("T2V-A14B", "TI2V-5B")
EXTRA = "soak-extra"  # models that are downloaded in the leg: EXTRA-0, EXTRA-1, ...
ABSENT = "soak-absent"  # a model that no node ever holds: its jobs take a fallback
PRIORITIES = ("critical", "high", "normal", "normal", "normal", "low")
WEBHOOKS = ("good", "good", "failing", "slow")

_TINY: dict[str, Any] = {"resolution": "64x64", "frames": 9, "steps": 2}
_QUIET_SECONDS = 3.0  # before the first fault
_LONGEST_PACE_SECONDS = 12.0  # between two faults
_LONGEST_WINDOW_SECONDS = 2000.0  # of all faults, so that a leg of any size ends within 40 minutes
_LOAD_SHARE = 0.85  # of the window; later jobs would run without faults
_EXTRA_MODELS = 40


@dataclass(frozen=True)
class Pause:
    """A pause of a download: seconds after it was accepted, and its length in seconds."""

    after: float
    lasts: float


@dataclass(frozen=True)
class Script:
    """One job and its client's actions. Times are seconds; `at` counts from the run's beginning."""

    number: int
    at: float
    path: str  # of the route that takes it
    body: Mapping[str, Any]
    watch: str  # poll, long_poll, events or nothing
    webhook: str | None = None  # how its receiver behaves
    repeats: bool = False  # asks again under the same key
    mismatches: bool = False  # asks for something else under the same key
    cancel_after: float | None = None
    delete_after: float | None = None
    deletes_at_end: bool = False
    retries_at_end: bool = False
    pauses: tuple[Pause, ...] = ()

    @property
    def is_generation(self) -> bool:
        return self.path == "generation"


@dataclass(frozen=True)
class Strike:
    """One fault at its time."""

    at: float
    fault: str
    seed: int  # what the fault itself draws from


@dataclass(frozen=True)
class Drain:
    at: float
    lasts: float


@dataclass(frozen=True)
class Plan:
    seed: int
    scripts: tuple[Script, ...]
    strikes: tuple[Strike, ...]
    drains: tuple[Drain, ...]
    extra_models: int
    seconds: float  # of load and faults


def draw(seed: int, jobs: int, faults: int, weights: Mapping[str, int]) -> Plan:
    """`weights` gives the relative frequency of each fault that this installation can have."""
    window = max(30.0, min(_LONGEST_WINDOW_SECONDS, faults * _LONGEST_PACE_SECONDS))
    choose = random.Random(f"{seed} load")
    downloads = min(_EXTRA_MODELS, max(1, jobs // 25))
    scripts = [_script(choose, number, window * _LOAD_SHARE, number < downloads) for number in range(jobs)]
    return Plan(
        seed=seed,
        scripts=tuple(sorted(scripts, key=lambda script: script.at)),
        strikes=_strikes(random.Random(f"{seed} faults"), faults, window, weights),
        drains=_drains(random.Random(f"{seed} drains"), jobs, window),
        extra_models=downloads,
        seconds=window,
    )


def _script(choose: random.Random, number: int, window: float, is_download: bool) -> Script:
    at = choose.uniform(0.0, window)
    if choose.random() < 0.2:
        at -= at % 20.0  # a fifth comes in bursts
    watch = choose.choice(("poll", "long_poll", "events", "nothing"))
    if is_download:
        body = {"model_id": f"{EXTRA}-{number}", "node": "here", "bandwidth_limit_mbps": choose.choice((2, 4))}
        pauses = (Pause(choose.uniform(0.5, 4.0), choose.uniform(4.0, 12.0)),) if choose.random() < 0.7 else ()
        cancel = choose.uniform(1.0, 10.0) if choose.random() < 0.15 else None
        return Script(number, at, "download", body, watch, pauses=pauses, cancel_after=cancel)
    kind = choose.random()
    if kind < 0.04:
        return Script(number, at, "integrity-check", {"model_id": choose.choice(MODELS), "node": "here"}, watch)
    if kind < 0.07:
        dry = choose.random() < 0.7
        return Script(number, at, "cleanup", {"node": "here", "dry_run": dry}, watch)
    fate = choose.random()
    return Script(
        number,
        at,
        "generation",
        _generation(choose, number),
        watch,
        webhook=choose.choice(WEBHOOKS) if choose.random() < 0.4 else None,
        repeats=choose.random() < 0.2,
        mismatches=choose.random() < 0.1,
        cancel_after=choose.uniform(0.0, 8.0) if fate < 0.12 else None,
        delete_after=choose.uniform(0.0, 15.0) if 0.12 <= fate < 0.2 else None,
        deletes_at_end=0.2 <= fate < 0.28,
        retries_at_end=0.28 <= fate < 0.33,
    )


def _generation(choose: random.Random, number: int) -> dict[str, Any]:
    priority = choose.choice(PRIORITIES)
    kind = choose.random()
    if kind < 0.33:  # one of few that are asked for again and again, to be compared byte for byte
        place = choose.randrange(6)
        model = MODELS[place % 2]
        return {"model_id": model, "prompt": "the same again", "seed": place, "priority": priority, **_TINY}
    body = {"model_id": choose.choice(MODELS), "prompt": f"job {number}", "seed": 1000 + number, "priority": priority}
    if kind < 0.45:
        return {**body, **_TINY, "model_id": ABSENT, "fallback": ["mock_generation"]}
    if kind < 0.55:  # long enough to be cancelled, frozen or killed midway
        return {**body, **_TINY, "resolution": "128x128", "steps": choose.randint(10, 25)}
    return {**body, **_TINY}


def _strikes(choose: random.Random, faults: int, window: float, weights: Mapping[str, int]) -> tuple[Strike, ...]:
    names = sorted(weights)
    once_each = choose.sample(names, len(names))[:faults]
    rest = choose.choices(names, [weights[name] for name in names], k=faults - len(once_each)) if names else []
    drawn = once_each + rest
    choose.shuffle(drawn)
    pace = (window - _QUIET_SECONDS) / max(1, faults)
    return tuple(
        Strike(_QUIET_SECONDS + pace * (place + choose.random()), name, choose.getrandbits(32))
        for place, name in enumerate(drawn)
    )


def _drains(choose: random.Random, jobs: int, window: float) -> tuple[Drain, ...]:
    count = max(1, jobs // 130)
    apart = window / count
    return tuple(
        Drain(apart * place + choose.uniform(0.2, 0.6) * apart, choose.uniform(4.0, 9.0)) for place in range(count)
    )
