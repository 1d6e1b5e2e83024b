"""Decides which copies a snapshot lacks, and how many bytes they take. It reads headers of weights, not weights."""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.models import prepared
from shared.models.prepared import COMPONENTS, KEPT_IN_FP32, Form
from shared.models.verification import MAX_HEADER_BYTES

_COEFFICIENT_BYTES = 1_000
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Shard:
    """One file of a copy, and the file that it is made of."""

    name: str
    source: Path
    bytes: int  # of the copy, estimated to a few per mille


@dataclass(frozen=True)
class Work:
    """One copy that is to be written."""

    component: str
    form: Form
    key: str
    config: Path
    shards: tuple[Shard, ...]
    sources: dict[str, int]  # sizes of the published weights, by name

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def folder(self) -> str:
        return prepared.folder_of(self.component, self.form, self.key)


def lacking(snapshot: Path, form: Form) -> list[Work]:
    """Return the copies that a model in that form lacks. Raises OSError and ValueError for unreadable weights."""
    components: list[tuple[str, Form]]
    if form == prepared.PREVIEW:
        components = [(prepared.PREVIEWED, form)]
    else:
        components = [(component, prepared.form_of(component, form)) for component in COMPONENTS]
    found = (_work(snapshot, component, form) for component, form in components)
    return [work for work in found if work is not None]


def estimated(sizes: Iterable[tuple[str, int]], forms: Iterable[Form]) -> dict[str, int]:
    """Return the bytes of the copies by component and form, before the weights are on this node.

    `sizes`: the published files. They are taken to have 32 bits, because only their headers would tell.
    """
    found: dict[str, int] = {}
    chosen = tuple(forms)
    for path, size in sizes:
        component, _, name = path.partition("/")
        if component not in COMPONENTS or not name.endswith(".safetensors"):
            continue
        for form in {prepared.form_of(component, each) for each in chosen}:
            copy = f"{component} {form}"
            found[copy] = found.get(copy, 0) + (size // 2 if form == "bf16" else size // 4)
    return found


def _work(snapshot: Path, component: str, form: Form) -> Work | None:
    if not (snapshot / component / "config.json").is_file() or prepared.recipe(form) is None:
        return None
    if prepared.find(snapshot, component, form) is not None:
        return None
    config = snapshot / component
    if form == prepared.PREVIEW:
        return _coefficients(snapshot)
    standing_in = prepared.standing_in(snapshot, component)
    if standing_in is not None:  # 16 bits are what int8 and fp8 are made of
        content = f"{prepared.recipe(form)} {standing_in.key}"
        key = hashlib.sha256(content.encode()).hexdigest()[:32]
        places = {Path(file.path).name: snapshot / file.path for file in standing_in.files}
        sizes = {Path(file.path).name: file.size for file in standing_in.files}
    else:
        found = prepared.key_of(snapshot, component, form)
        if found is None:
            return None
        key = found
        places = {Path(path).name: snapshot / path for path in prepared.weights(snapshot, component)}
        sizes = {name: place.stat().st_size for name, place in places.items()}
    headers = {name: header(place) for name, place in places.items()}
    if form == "bf16" and not any(_changes(component, tensors) for tensors in headers.values()):
        return None  # the published weights are loaded as they are
    shards = tuple(Shard(name, place, _size(component, form, headers[name])) for name, place in places.items())
    return Work(component, form, key, config, shards, sizes)


def _coefficients(snapshot: Path) -> Work | None:
    """Return the work of fitting the coefficients of previews, whose one file is made of the whole VAE."""
    component, form = prepared.PREVIEWED, prepared.PREVIEW
    key = prepared.key_of(snapshot, component, form)
    if key is None:
        return None
    config = snapshot / component
    sizes = {Path(path).name: (snapshot / path).stat().st_size for path in prepared.weights(snapshot, component)}
    shard = Shard(f"{form}.safetensors", config, _COEFFICIENT_BYTES)
    return Work(component, form, key, config, (shard,), sizes)


def header(place: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of each tensor in a safetensors file. Raises OSError, ValueError."""
    with place.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ValueError(f"{place.name} has no header")
        content = json.loads(file.read(length))
    try:
        named = ((name, tensor) for name, tensor in content.items() if name != "__metadata__")
        return {name: (str(tensor["dtype"]), tuple(map(int, tensor["shape"]))) for name, tensor in named}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{place.name} has no valid header") from error


def _kept(component: str, name: str) -> bool:
    return component != "text_encoder" and not KEPT_IN_FP32.isdisjoint(name.split("."))


def _changes(component: str, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> bool:
    """Return whether loading in 16 bits would convert a tensor."""
    return any(
        dtype != ("F32" if _kept(component, name) else "BF16")
        for name, (dtype, _) in tensors.items()
        if dtype in _FLOATS
    )


def _size(component: str, form: Form, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> int:
    """Return the bytes of the copy. Which layers are linear is guessed by the shapes of their weights."""
    total = 0
    for name, (dtype, shape) in tensors.items():
        count = math.prod(shape)
        if dtype not in _FLOATS:
            total += count * 8
        elif _kept(component, name):
            total += count * 4
        elif form == "int8" and len(shape) == 2 and name.endswith(".weight"):
            total += count + shape[0] * 5
        elif form == "fp8" and name.startswith("blocks.") and len(shape) == 2 and name.endswith(".weight"):
            total += count + shape[0] * 4
        else:
            total += count * 2
    return total
