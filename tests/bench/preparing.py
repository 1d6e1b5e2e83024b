"""Loading two layers of real width from published weights and from prepared copies."""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from shared.models import prepared

if TYPE_CHECKING:
    from tests.bench.bench import Bench
    from tests.bench.support.row import Row

_MODEL = "TI2V-5B"
_TEXT = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
_VAE = {"base_dim": 4, "decoder_base_dim": 4, "num_res_blocks": 1}


def preparing(bench: "Bench", rounds: int = 3) -> "list[Row]":
    """Medians of rounds with the files in the page cache, where reading costs least and converting most."""
    from tests.bench.support.row import Row
    from tests.support.models.prepared_models import prepared_at

    plain, copied = _snapshots(bench.folder / "preparing")
    written = {form: prepared_at(copied, form) for form in prepared.FORMS}
    published = sum((plain / path).stat().st_size for path in prepared.weights(plain, "transformer"))
    rows = []
    for form in prepared.FORMS:
        fresh = [_load(plain, form) for _ in range(rounds)]
        ours = [_load(copied, form) for _ in range(rounds)]
        before, after = _median(fresh, "seconds"), _median(ours, "seconds")
        copy = prepared.find(copied, "transformer", form)
        assert copy is not None
        read = f"{copy.bytes / 1e6:.0f} over {published / 1e6:.0f} MB"
        peaks = f"{_median(ours, 'peak_mb'):.0f} over {_median(fresh, 'peak_mb'):.0f} MB"
        rows += [
            Row(
                f"{form}: load from copies over load from published weights ({after:.2f} s over {before:.2f} s)",
                f"{after / before:.2f}",
                "< 1",
                after < before,
            ),
            Row(f"{form}: bytes of the transformer that are read", read, "", None),
            Row(f"{form}: peak memory of the process", peaks, "", None),
            Row(f"{form}: writing the copies, once", f"{written[form].seconds:.1f} s", "", None),
        ]
    return rows


def _snapshots(folder: Path) -> tuple[Path, Path]:
    """Write the model twice: one copy of it is prepared."""
    from workers.generation import demo_models

    whole = demo_models.REAL[_MODEL]
    shape = demo_models.reduced(whole, {"num_layers": 2, "text_dim": 64}, _VAE, _TEXT, shard_bytes=500_000_000)
    plain = demo_models.make_repo(folder / "published", f"{demo_models.OWNER}/{_MODEL}", shape)
    shutil.copytree(folder / "published", folder / "prepared", symlinks=True)
    return plain, folder / "prepared" / plain.relative_to(folder / "published")


def _load(snapshot: Path, form: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.support.load_once", str(snapshot), form]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _median(figures: list[dict[str, float]], name: str) -> float:
    return statistics.median(each[name] for each in figures)
