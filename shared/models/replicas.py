"""Record which models' files are on which node, and whether they are complete.

Only this module, `replica_files.py` (which checks contents) and `removals.py` write the table `replicas`.

A presence scan is fast and offline: it reads the model's index files and checks only whether each file exists. It reads
the Hugging Face cache layout (``models--ORG--NAME/{blobs,refs,snapshots}``).
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import and_, delete, or_
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.database.engine import Database, hold, settled
from shared.database.tables import Blob, Pin, Replica, ReplicaFile
from shared.models import prepared, removals
from shared.models.replica_files import replicas_of
from shared.models.stored_files import has_content, is_cut_off
from shared.states import REPLICA_READY, ReplicaState

# The files that a component of a pipeline needs besides weights, by its name in model_index.json. The first existing
# one counts: tokenizers have a fast and a slow form.
_COMPONENT_FILES = {
    "scheduler": (("scheduler_config.json",),),
    "tokenizer": (("tokenizer.json", "spiece.model", "vocab.json"), ("tokenizer_config.json",)),
}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SNAPSHOT_NAME = re.compile(r"\w[\w.-]*")  # a folder name, not a path
# The file names of weights, by the library that wrote them.
_WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}


@dataclass(frozen=True)
class Presence:
    """The result of a scan for one model."""

    state: ReplicaState
    revision: str | None
    bytes: int
    missing_files: tuple[str, ...]
    prepared: tuple[str, ...] = ()  # the complete copies, as `component form`
    removed_source_bytes: int = 0  # of published weights that copies stand in for


def snapshot_dir(models_dir: Path, entry: CatalogueEntry) -> Path | None:
    """Return the folder of the model's weights at its catalogue revision; None if the cache does not have it.

    `refs/REVISION` names the folder. Copied and pruned caches may lack the reference or its folder. Then it is the
    newest complete folder that no other reference names or, if none is complete, the newest.
    """
    return _folder_of(models_dir, entry.repo, entry.revision, _is_whole)


def lora_dir(models_dir: Path, entry: CatalogueEntry) -> Path | None:
    """Return the folder of a preset's LoRA, found like that of weights; None for an entry without one."""
    if (lora := entry.lora) is None:
        return None

    def is_whole(snapshot: Path) -> bool:
        places = [snapshot / path for path in lora.paths]
        return all(has_content(place) and not _is_damaged(place) for place in places)

    return _folder_of(models_dir, lora.repo, lora.revision, is_whole)


def own_dir(models_dir: Path, entry: CatalogueEntry) -> Path | None:
    """Return the folder of the files that are recorded under the entry: a preset's LoRA, else the weights."""
    return lora_dir(models_dir, entry) if entry.lora is not None else snapshot_dir(models_dir, entry)


def _folder_of(models_dir: Path, repo_id: str, revision: str, is_whole: Callable[[Path], bool]) -> Path | None:
    repo = models_dir / f"models--{repo_id.replace('/', '--')}"
    snapshots = repo / "snapshots"
    for name in (_reference(repo / "refs" / revision), revision):
        if name is not None and "/" not in name and (snapshots / name).is_dir():
            return snapshots / name
    if _COMMIT.fullmatch(revision):  # other commits do not count
        return None
    unnamed = _unnamed_snapshots(repo, revision)
    return max(unnamed, key=lambda each: (is_whole(each), each.stat().st_mtime_ns, each.name), default=None)


def indexed_files(snapshot: Path) -> frozenset[str]:
    """Return the files that the model's index files list, as far as these can be read."""
    return frozenset(_wanted_files(snapshot)[0])


def scan(models_dir: Path, entry: CatalogueEntry) -> Presence:
    """Return which of the entry's own files exist, without reading the weights. A preset's are those of its LoRA."""
    snapshot = own_dir(models_dir, entry)
    if snapshot is None:
        return Presence(ReplicaState.MISSING, None, 0, ())
    if entry.lora is not None:
        return _of_files(snapshot, entry.lora.paths)
    wanted, unreadable = _wanted_files(snapshot)
    missing = tuple(sorted(name for name in wanted if not has_content(snapshot / name)))
    there = sorted(wanted - set(missing))
    size = sum((snapshot / name).stat().st_size for name in there)
    copies = prepared.copies(snapshot)
    size += sum(file.size for copy in copies for file in copy.files if file.path not in wanted)
    names = tuple(f"{copy.component} {copy.form}" for copy in copies)
    removed = prepared.removed_source_bytes(snapshot)
    damaged = (*unreadable, *(name for name in there if _is_damaged(snapshot / name)))
    if damaged:
        return Presence(ReplicaState.CORRUPTED, snapshot.name, size, (*missing, *damaged), names, removed)
    state = ReplicaState.MISSING if missing else ReplicaState.AVAILABLE
    return Presence(state, snapshot.name, size, missing, names, removed)


def _of_files(snapshot: Path, paths: Iterable[str]) -> Presence:
    there = [path for path in paths if has_content(snapshot / path)]
    missing = [path for path in paths if path not in there]
    size = sum((snapshot / path).stat().st_size for path in there)
    damaged = [path for path in there if _is_damaged(snapshot / path)]
    state = ReplicaState.CORRUPTED if damaged else ReplicaState.MISSING if missing else ReplicaState.AVAILABLE
    return Presence(state, snapshot.name, size, tuple(sorted((*missing, *damaged))))


def record(
    database: Database,
    node: str,
    catalogue: Catalogue,
    found: dict[str, Presence],
    looked_at: datetime | None = None,
) -> bool:
    """Store the result of a node's scan. Return whether any state changed.

    `looked_at`: when the scan began. Replicas that were removed or fetched since then are skipped.
    """
    now = clock.now()
    changed = False
    with database.write() as session:
        hold(session, replicas_of(node))
        held = select(Replica).where(Replica.node == node).order_by(col(Replica.model_id)).with_for_update()
        known = {row.model_id: row for row in session.exec(held)}
        removing = removals.under_way(session, node)
        for model_id in set(known) - set(catalogue.model_ids):
            session.delete(known[model_id])
        for model_id, presence in found.items():
            row = known.get(model_id)
            if row is not None and looked_at is not None and row.checked_at > looked_at:
                continue
            row = row or Replica(node=node, model_id=model_id, state="", repo="", missing_files=[], checked_at=now)
            before = row.state
            _update(row, presence, removing)
            entry = catalogue.get(model_id)
            row.repo, row.requires = entry.own_repo, entry.requires
            row.checked_at = now
            session.add(row)
            changed |= row.state != before
    return changed


def _update(row: Replica, presence: Presence, removing: bool) -> None:
    """Update the row by a presence scan, which does not know whether the contents are correct."""
    if row.state == ReplicaState.REMOVING and removing:
        return
    before = row.state
    if presence.revision != row.revision:
        row.faults = []
        row.verified_at = None
        row.verified_full = False
        row.verified_bytes = row.expected_bytes = 0
    row.state = ReplicaState.CORRUPTED if row.faults else presence.state
    row.generation += before in REPLICA_READY and row.state not in REPLICA_READY
    row.revision = presence.revision
    row.bytes = presence.bytes
    row.missing_files = list(presence.missing_files)
    row.prepared = list(presence.prepared)
    row.removed_source_bytes = presence.removed_source_bytes


# A preset is served where its base is ready too.
_Base = aliased(Replica)
_OF_THE_BASE = and_(_Base.node == Replica.node, _Base.model_id == Replica.requires)  # type: ignore[arg-type]
_READY = (
    select(Replica.node, Replica.model_id)
    .outerjoin(_Base, _OF_THE_BASE)
    .where(
        col(Replica.state).in_(REPLICA_READY),
        or_(col(Replica.requires).is_(None), col(_Base.state).in_(REPLICA_READY)),
    )
)


def ready(database: Database, nodes: Iterable[str] | None = None) -> dict[str, frozenset[str]]:
    """Return the models that each node holds completely, by node. `nodes`: only these nodes."""
    query = _READY if nodes is None else _READY.where(col(Replica.node).in_(list(nodes)))
    held: dict[str, set[str]] = {}
    with database.read() as session:
        for node, model_id in session.exec(query):
            held.setdefault(node, set()).add(model_id)
    return {node: frozenset(models) for node, models in held.items()}


def corrupted(database: Database) -> frozenset[str]:
    """Return the models that have a corrupted replica on some node, and the presets of such models."""
    query = (
        select(Replica.model_id)
        .outerjoin(_Base, _OF_THE_BASE)
        .where(or_(Replica.state == ReplicaState.CORRUPTED, _Base.state == ReplicaState.CORRUPTED))  # type: ignore[arg-type]
    )
    with database.read() as session:
        return frozenset(session.exec(query))


def generations(database: Database, node: str) -> dict[str, int]:
    """Return the version counter of each model's files on the node. Models loaded at a lower count are stale."""
    with database.read() as session:
        query = select(Replica.model_id, Replica.generation).where(Replica.node == node)
        return dict(session.exec(query).all())


def bases(database: Database) -> dict[str, str]:
    """Return the model whose files each preset needs, as last scanned."""
    query = select(Replica.model_id, Replica.requires).where(col(Replica.requires).is_not(None)).distinct()
    with database.read() as session:
        return {model_id: base for model_id, base in session.exec(query) if base is not None}


def states(database: Database, model_id: str) -> dict[str, ReplicaState]:
    """Return the state of the model's files on each node; for a preset that of its base if its own are complete."""
    base = col(_Base.state)
    query = select(Replica.node, Replica.state, Replica.requires, base).outerjoin(_Base, _OF_THE_BASE)
    with database.read() as session:
        return {
            node: ReplicaState((other or ReplicaState.MISSING) if requires and own in REPLICA_READY else own)
            for node, own, requires, other in session.exec(query.where(Replica.model_id == model_id))
        }


def forget(session: Session, node: str) -> None:
    """Remove all rows of a removed node."""
    for table in (Replica, ReplicaFile, Blob):
        session.connection().execute(delete(table).where(col(table.node) == node))


def rows(database: Database) -> list[Replica]:
    """Return all replicas of all nodes, as last scanned."""
    with database.read() as session:
        return list(session.exec(select(Replica).order_by(col(Replica.node), col(Replica.model_id))))


@settled
def pin(database: Database, model_id: str) -> Pin:
    """Exclude the model from cleanups. Idempotent: the time of the first call is kept."""
    with database.write() as session:
        hold(session, f"pin of {model_id}")
        row = session.get(Pin, model_id) or Pin(model_id=model_id, pinned_at=clock.now())
        session.add(row)
        return row


@settled
def unpin(database: Database, model_id: str) -> None:
    """Let cleanups remove the model again. Idempotent."""
    with database.write() as session:
        session.connection().execute(delete(Pin).where(col(Pin.model_id) == model_id))


def pins(database: Database) -> dict[str, datetime]:
    """Return since when each pinned model has been pinned."""
    with database.read() as session:
        return {row.model_id: row.pinned_at for row in session.exec(select(Pin))}


def _wanted_files(snapshot: Path) -> tuple[set[str], tuple[str, ...]]:
    """Return (files that the model's index files list, index files that cannot be read)."""
    wanted = {"model_index.json"}
    unreadable: list[str] = []

    def read(name: str) -> dict[str, Any]:
        try:
            content = json.loads((snapshot / name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError):
            unreadable.append(name)
            return {}
        return content if isinstance(content, dict) else {}

    if not has_content(snapshot / "model_index.json"):
        return wanted, ()
    for component, value in read("model_index.json").items():
        if component.startswith("_") or not isinstance(value, list) or len(value) != 2 or value[0] is None:
            continue
        wanted |= _component_files(snapshot, component, str(value[0]), read)
    return wanted, tuple(unreadable)


def _component_files(snapshot: Path, component: str, library: str, read: Any) -> set[str]:
    kind = "tokenizer" if component.startswith("tokenizer") else component
    if kind in _COMPONENT_FILES:
        choices = _COMPONENT_FILES[kind]
        return {
            next(
                (f"{component}/{name}" for name in names if (snapshot / component / name).exists()),
                f"{component}/{names[0]}",
            )
            for names in choices
        }
    files = {f"{component}/config.json"}
    copy = prepared.standing_in(snapshot, component)
    if copy is not None:
        return files | {copy.manifest.path} | {file.path for file in copy.files}
    weights = f"{component}/{_WEIGHTS.get(library, _WEIGHTS['diffusers'])}.safetensors"
    index = f"{weights}.index.json"
    if not (snapshot / index).is_symlink() and not (snapshot / index).exists():
        return files | {weights}
    if not has_content(snapshot / index):  # a dangling link, a pointer or an empty file: the shards are unknown
        return files | {index}
    shards = read(index).get("weight_map")
    named = set(shards.values()) if isinstance(shards, dict) else set()
    return files | {index} | {f"{component}/{shard}" for shard in named if isinstance(shard, str)}


def _is_damaged(place: Path) -> bool:
    """Return whether a file of weights is truncated, as after an interrupted copy."""
    try:
        return place.suffix == ".safetensors" and is_cut_off(place)
    except OSError:
        return True


def _reference(place: Path) -> str | None:
    """Return the commit that a file under `refs` names; None if it names none."""
    try:
        name = place.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if _SNAPSHOT_NAME.fullmatch(name) else None


def _unnamed_snapshots(repo: Path, revision: str) -> list[Path]:
    """Return the snapshots that no branch or tag other than `revision` names."""
    refs, snapshots = repo / "refs", repo / "snapshots"
    others = {place for place in refs.rglob("*") if place.is_file() and place != refs / revision}
    named = {_reference(place) for place in others}
    return [place for place in _folders(snapshots) if _SNAPSHOT_NAME.fullmatch(place.name) and place.name not in named]


def _folders(folder: Path) -> list[Path]:
    return [place for place in folder.iterdir() if place.is_dir()] if folder.is_dir() else []


def _is_whole(snapshot: Path) -> bool:
    wanted, unreadable = _wanted_files(snapshot)
    names = (snapshot / name for name in wanted)
    return not unreadable and all(has_content(place) and not _is_damaged(place) for place in names)
