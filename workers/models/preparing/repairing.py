"""What repairing needs: which published files to download, and which copies to write again."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shared.models import prepared
from shared.models.prepared import COMPONENTS, Form
from workers.models.fetch.layout import RepoCache


@dataclass(frozen=True)
class Needs:
    """Paths within the snapshot."""

    published: tuple[str, ...]  # to be downloaded again
    removed: tuple[str, ...]  # those of them that had been removed because a copy stood in for them
    copies: tuple[str, ...]  # all files of the broken copies
    forms: tuple[Form, ...]  # to be prepared again


def needs_of(snapshot: Path, broken: Collection[str]) -> Needs:
    """Return what repairing the broken files needs.

    A broken copy is made of the published weights. Where these were removed, they have to be downloaded first.
    """
    folders = {str(PurePosixPath(path).parent) for path in broken if prepared.is_prepared(path)}
    copies = sorted(path for folder in folders for path in _files(snapshot, folder, broken))
    published = {path for path in broken if not prepared.is_prepared(path)}
    components = {folder.split("/")[2] for folder in folders}
    removed: set[str] = set()
    for component in components & set(COMPONENTS):
        standing_in = prepared.find(snapshot, component, "bf16")
        intact = standing_in is not None and not folders & {str(PurePosixPath(standing_in.manifest.path).parent)}
        if not intact:
            removed |= {path for path in prepared.weights(snapshot, component) if not (snapshot / path).exists()}
    names = {folder.split("/")[1].partition("-")[0] for folder in folders}
    quantized = {copy.form for copy in prepared.copies(snapshot)}.intersection(prepared.QUANTIZED_FORMS)
    if components == {"text_encoder"} and quantized:
        names = {min(quantized)}  # which uses the same text encoder, and may be the only form on this node
    forms = tuple(form for form in (*prepared.FORMS, prepared.PREVIEW) if form in names)
    missing = removed | {path for path in published if not (snapshot / path).exists()}
    return Needs(tuple(sorted(published | removed)), tuple(sorted(missing & removed)), tuple(copies), forms)


def drop_copies(cache: RepoCache, snapshot: Path, paths: Collection[str]) -> None:
    """Remove the files of broken copies with their blobs, so that nothing is taken over from them."""
    for path in paths:
        place = snapshot / path
        if place.is_symlink():
            cache.blob(place.readlink().name).unlink(missing_ok=True)
    for folder in {(snapshot / path).parent for path in paths}:
        shutil.rmtree(folder, ignore_errors=True)


def _files(snapshot: Path, folder: str, broken: Collection[str]) -> set[str]:
    place = snapshot / folder
    there = {f"{folder}/{each.name}" for each in place.iterdir()} if place.is_dir() else set()
    return there | {path for path in broken if str(PurePosixPath(path).parent) == folder}
