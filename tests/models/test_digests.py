"""Digests of weights are remembered as long as the files that they were read from are as they were."""

import os
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from loralab.files import cache_folder
from loralab.models import fingerprint
from loralab.models.digests import SETTLED, origin, remembered
from loralab.models.families.sd import load

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def base(random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that no run has seen, its files old enough to be remembered."""
    monkeypatch.setenv("LORALAB_CACHE", str(tmp_path / "cache"))
    copy = Path(shutil.copytree(random_base, tmp_path / "base"))
    time.sleep(SETTLED + 0.1)
    return copy


def kept() -> list[Path]:
    return sorted((cache_folder() / "digests").glob("*"))


def test_what_is_remembered_is_what_would_be_computed(base: Path) -> None:
    first = load(str(base), resolution=64)
    found = first.identity
    assert len(kept()) == 3, "UNet, text encoder and VAE"
    assert {file.read_text() for file in kept()} == {found[f"{part} weights"] for part in (*first.parts(), "vae")}
    again = load(str(base), resolution=64)
    assert again.identity == found
    for part, module in (*first.parts().items(), ("vae", first.vae)):
        assert again.identity[f"{part} weights"] == fingerprint.weights(module)
    kept()[0].write_text("x" * 32)
    assert "x" * 32 in load(str(base), resolution=64).identity.values(), "it was not computed"
    kept()[0].write_text("cut")
    assert load(str(base), resolution=64).identity == found, "a damaged entry counts for nothing"


def test_another_dtype_has_another_digest(base: Path) -> None:
    full, half = (load(str(base), resolution=64, dtype=dtype).identity for dtype in ("fp32", "bf16"))
    assert full["unet weights"] != half["unet weights"]
    assert full["vae weights"] == half["vae weights"]


def test_a_changed_file_is_read_again(base: Path) -> None:
    """Another weight, the size and the modification time as before."""
    before = load(str(base), resolution=64).identity
    file = base / "unet" / WEIGHTS
    status, state = file.stat(), load_file(file)
    state["conv_in.bias"] = state["conv_in.bias"] + 1
    save_file(state, file, {"format": "pt"})
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    time.sleep(SETTLED + 0.1)
    changed = load(str(base), resolution=64)
    assert changed.identity["unet weights"] == fingerprint.weights(changed.denoiser) != before["unet weights"]


def test_a_new_file_is_not_remembered(tmp_path: Path) -> None:
    """It could be written again within the same tick of the clock."""
    file = tmp_path / "file"
    file.touch()
    assert origin([file]) is None
    calls = [remembered(None, lambda: "digest") for _ in range(2)]
    assert calls == ["digest"] * 2
    time.sleep(SETTLED + 0.1)
    assert origin([file]) is not None


def test_a_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORALAB_CACHE", str(tmp_path / "file"))
    assert remembered("0" * 32, lambda: "1" * 32) == "1" * 32
