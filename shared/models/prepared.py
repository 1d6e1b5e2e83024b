"""Prepared copies of a model's components: how they are named, and which are complete. It reads no weights.

A component whose weights are loaded in another form than published may have a copy in that form. The copies of a
snapshot stand inside it, as links to blobs like its own files, so that whatever holds for these holds for the copies:

snapshots/<sha>/prepared/<recipe>/<component>/<key>/<weights>.safetensors
snapshots/<sha>/prepared/<recipe>/<component>/<key>/prepared.json          written last: the copy is complete

The coefficients of previews (`preview`, see `workers/generation/pipelines/previews/`) are kept as such a copy of the
VAE, whose weights stay as published.

The recipe names the form, its version, and the versions of the libraries that determine the bytes. The key is a
checksum of the recipe and of the component's own files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from shared.models.verification import is_oid

Form = Literal["bf16", "int8", "fp8", "preview"]
FORMS: tuple[Form, ...] = ("bf16", "int8", "fp8")  # of weights
PREVIEW: Form = "preview"
PREVIEWED = "vae"  # the component that decodes what previews show
QUANTIZED_FORMS: tuple[Literal["int8", "fp8"], ...] = ("int8", "fp8")
FOLDER = "prepared"
MANIFEST = "prepared.json"

# The components that are loaded in 16 or 8 bits, and the file name of their weights. The VAE stays as published.
COMPONENTS: Mapping[str, str] = {
    "text_encoder": "model",
    "transformer": "diffusion_pytorch_model",
    "transformer_2": "diffusion_pytorch_model",
}
_WEIGHTS: Mapping[str, str] = {**COMPONENTS, PREVIEWED: "diffusion_pytorch_model"}
# The parts of a transformer that stay in 32 bits: diffusers' `WanTransformer3DModel._keep_in_fp32_modules`.
KEPT_IN_FP32 = frozenset({"rope", "time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"})
# fp8 needs weights whose edges are multiples of this, as the cards' kernels do.
FP8_MULTIPLE = 16

# Raise a version whenever the bytes that a recipe writes change.
_VERSIONS: Mapping[Form, int] = {"bf16": 1, "int8": 1, "fp8": 1, "preview": 1}


@dataclass(frozen=True)
class PreparedFile:
    """One file of a copy."""

    path: str  # within the snapshot
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Copy:
    """One complete copy of a component."""

    component: str
    form: Form
    key: str
    folder: Path
    files: tuple[PreparedFile, ...]  # of weights
    manifest: PreparedFile
    sources: tuple[str, ...]  # the published weights, as paths within the snapshot
    source_bytes: int

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


@cache
def recipe(form: Form) -> str | None:
    """Return the recipe's name with the libraries of this machine; None if a library that it needs is missing."""
    if form in ("bf16", "preview"):
        return f"{form}-{_VERSIONS[form]}"
    try:
        return f"{form}-{_VERSIONS[form]}-torchao-{version('torchao')}"
    except PackageNotFoundError:
        return None


def form_of(component: str, form: Form) -> Form:
    """Return the form of that component in a model of that form: the text encoder always has 16 bits."""
    return "bf16" if component == "text_encoder" else form


def lock_name(revision: str) -> str:
    """Return the name of the lock under which copies of a snapshot are written and removed."""
    return f"{FOLDER}-{revision}"


def is_prepared(path: str) -> bool:
    """Return whether a path within a snapshot is that of a prepared file."""
    return path.startswith(f"{FOLDER}/")


def recipe_of(path: str) -> str | None:
    """Return the recipe by which the file at a path within a snapshot was made; None for a published file."""
    return path.split("/")[1] if is_prepared(path) else None


def weights(snapshot: Path, component: str) -> tuple[str, ...]:
    """Return the component's published weights as paths within the snapshot, whether these files exist or not."""
    return _weights(snapshot, component, _WEIGHTS[component])


def checksums(snapshot: Path, component: str, weights_name: str) -> dict[str, str] | None:
    """Return the checksums of a component's configuration and published weights, by file name.

    None if a file is missing, or is no link that names its checksum.
    """
    paths = (f"{component}/config.json", *_weights(snapshot, component, weights_name))
    found = {path.removeprefix(f"{component}/"): _identity(snapshot / path) for path in paths}
    named = {name: identity for name, identity in found.items() if identity is not None and is_oid(identity)}
    return named if len(named) == len(found) else None


def _weights(snapshot: Path, component: str, weights_name: str) -> tuple[str, ...]:
    name = f"{component}/{weights_name}.safetensors"
    index = _read(snapshot / f"{name}.index.json")
    shards = index.get("weight_map") if index is not None else None
    if not isinstance(shards, dict):
        return (name,)
    return tuple(sorted({f"{component}/{shard}" for shard in shards.values() if isinstance(shard, str)}))


def has_sources(snapshot: Path, component: str) -> bool:
    """Return whether all published weights of the component exist."""
    return all((snapshot / path).is_file() for path in weights(snapshot, component))


def key_of(snapshot: Path, component: str, form: Form) -> str | None:
    """Return the key of a copy of the component's present files; None if a file or a library is missing."""
    name = recipe(form)
    paths = (f"{component}/config.json", *weights(snapshot, component))
    found = {path.removeprefix(f"{component}/"): _identity(snapshot / path) for path in paths}
    if name is None or None in found.values():
        return None
    return hashlib.sha256(json.dumps([name, found], sort_keys=True).encode()).hexdigest()[:32]


def folder_of(component: str, form: Form, key: str) -> str:
    """Return the folder of a copy within the snapshot."""
    return f"{FOLDER}/{recipe(form)}/{component}/{key}"


def find(snapshot: Path, component: str, form: Form) -> Copy | None:
    """Return the complete copy of the component in that form; None without one.

    If published weights were removed, the copy of the snapshot is the one that was made of them.
    """
    name = recipe(form)
    if name is None or component not in _WEIGHTS:
        return None
    key = key_of(snapshot, component, form)
    if key is not None:
        return read(snapshot, component, form, key)
    place = snapshot / FOLDER / name / component
    keys = sorted(each.name for each in place.iterdir()) if place.is_dir() else []
    found = (read(snapshot, component, form, each) for each in keys)
    return next((copy for copy in found if copy is not None), None)


def read(snapshot: Path, component: str, form: Form, key: str) -> Copy | None:
    """Return the copy under that key if its manifest and all its files exist in the right sizes."""
    within = folder_of(component, form, key)
    place = snapshot / within / MANIFEST
    content = _read(place)
    if content is None:
        return None
    try:
        raw = place.read_bytes()
        files = tuple(
            PreparedFile(f"{within}/{name}", int(file["size"]), str(file["sha256"]))
            for name, file in content["files"].items()
        )
        sources = {f"{component}/{name}": int(size) for name, size in content["sources"].items()}
        if any((snapshot / file.path).stat().st_size != file.size for file in files):
            return None
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None
    manifest = PreparedFile(f"{within}/{MANIFEST}", len(raw), hashlib.sha256(raw).hexdigest())
    return Copy(component, form, key, snapshot / within, files, manifest, tuple(sorted(sources)), sum(sources.values()))


def copies(snapshot: Path) -> list[Copy]:
    """Return all complete copies that this machine's libraries can use."""
    weights = ((component, form) for component in COMPONENTS for form in FORMS if form_of(component, form) == form)
    found = (find(snapshot, component, form) for component, form in (*weights, (PREVIEWED, PREVIEW)))
    return [copy for copy in found if copy is not None]


def standing_in(snapshot: Path, component: str) -> Copy | None:
    """Return the 16-bit copy that serves in place of the component's published weights; None if these exist."""
    if component not in COMPONENTS or has_sources(snapshot, component):
        return None
    return find(snapshot, component, "bf16")


def removed_sources(snapshot: Path) -> Iterator[Copy]:
    """Yield the copies that serve in place of removed published weights."""
    for component in COMPONENTS:
        copy = standing_in(snapshot, component)
        if copy is not None:
            yield copy


def removed_source_bytes(snapshot: Path) -> int:
    """Return the size of the published weights that were removed after preparing, if their copies are broken too.

    It is what has to be downloaded before a broken copy can be written again.
    """
    total = 0
    for component in COMPONENTS:
        if has_sources(snapshot, component):
            continue
        manifests = sorted((snapshot / FOLDER / str(recipe("bf16")) / component).glob(f"*/{MANIFEST}"))
        sizes = (content.get("sources") for place in manifests[:1] if (content := _read(place)) is not None)
        total += sum(sum(each.values()) for each in sizes if isinstance(each, dict))
    return total


def as_manifest(sources: Mapping[str, int], files: Mapping[str, tuple[int, str]]) -> bytes:
    """Return the content of a manifest: sizes of the published weights, sizes and checksums of the copy's files."""
    described = {name: {"size": size, "sha256": sha256} for name, (size, sha256) in files.items()}
    content = {"sources": dict(sources), "files": described}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _identity(place: Path) -> str | None:
    """Return what identifies the content of a file: the checksum that its link names, else its size and time."""
    try:
        if place.is_symlink() and is_oid(name := place.readlink().name):
            return name if place.exists() else None
        status = place.stat()
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read(place: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None
