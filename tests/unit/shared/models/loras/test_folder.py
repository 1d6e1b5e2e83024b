from pathlib import Path

from shared.models.loras.folder import bytes_of
from wanworks.requests import Lora


def test_the_larger_file_of_a_pair_counts_and_a_missing_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "style.safetensors").write_bytes(bytes(100))
    (tmp_path / "pair.high.safetensors").write_bytes(bytes(30))
    (tmp_path / "pair.low.safetensors").write_bytes(bytes(50))
    asked = [Lora(name=name) for name in ("style", "pair", "elsewhere")]
    assert bytes_of(tmp_path, asked) == 150
    assert bytes_of(tmp_path / "none", asked) == 0
