"""An object store behind a bad network, the limit of downloads, and what is refused."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from loralab import remote, urls
from loralab.data.folders import Folder
from loralab.data.index.index import scan
from loralab.data.sources.downloads import Downloads
from loralab.errors import UserError
from tests.support.object_store import Network, put
from tests.support.verbs import loralab


@pytest.mark.slow
def test_a_listing_of_more_than_a_page(network: Network, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(1003):  # S3 lists a thousand at once
        (tmp_path / "set" / f"{number}.txt").write_text("x")
    (tmp_path / "set" / "größe ☆+%20.txt").write_text("umlaut")
    url = put(tmp_path / "set", "long")
    found = remote.files(url, "data.folder")
    assert sorted(entry.url.removeprefix(url)[1:] for entry in found) == sorted(
        path.name for path in (tmp_path / "set").iterdir()
    )
    assert remote.read(f"{url}/größe ☆+%20.txt", "data.folder") == b"umlaut"


def test_all_but_the_last_attempt_may_fail(network: Network, images: Path) -> None:
    url = put(images, "tried")
    for fault in ("refuse", "drop"):
        attempts = itertools.count()
        network.fault = lambda path, fault=fault, n=attempts: fault if path.endswith("z.png") and next(n) < 3 else ""
        assert remote.read(f"{url}/z.png", "data.folder") == (images / "z.png").read_bytes()
        assert network.faults[fault] == 3


@pytest.mark.parametrize("fault", ["refuse", "drop"])
def test_a_server_that_stays_away_is_no_damaged_image(
    network: Network, images: Path, fault: str, tmp_path: Path
) -> None:
    url = put(images, "gone")
    network.fault = lambda path: fault if path.endswith("z.png") else ""
    with pytest.raises(remote.Unreachable, match=r"data.folder: s3://bucket/gone/\S*z.png could not be reached"):
        scan([Folder(url)], str(tmp_path / "cache"))


def test_wrong_credentials(network: Network, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    import fsspec

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UserError, match=r"is refused: Unable to locate credentials[\s\S]*AWS_ACCESS_KEY_ID"):
        remote.files("s3://bucket/any", "data.folder")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_the_doctor_reads_it(network: Network, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = put(images, "doctor/set")
    said = []
    for root in (str(images), url):
        loralab("doctor", root, "model=tiny", "data.resolution=64", f"data.mask_folder={root}/masks")
        said.append(capsys.readouterr().out.replace(root, "ROOT"))
    assert said[0] == said[1]


def test_a_folder_that_is_not_there(network: Network) -> None:
    for url in ("s3://bucket/none", "s3://none/none"):
        with pytest.raises(UserError, match="was not found, or is empty"):
            scan([Folder(url)])


def test_downloads_stay_under_their_limit(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, 1_000_000)
    fetched = []

    def get(key: int) -> bytes:
        def fetch() -> bytes:
            fetched.append(key)
            return bytes([key]) * 10_000

        return downloads.get(f"file {key}", 10_000, fetch)

    for key in range(200):
        assert get(key) == bytes([key]) * 10_000
        get(0)
        assert sum(file.stat().st_size for file in tmp_path.glob("*/*")) <= 1_000_000
    assert fetched == [*range(200)]  # the one that was used all the time was kept
    assert len(list(tmp_path.glob("*/*"))) > 70
    get(199)
    assert fetched[200:] == []
    downloads.get("large", 500_000, lambda: bytes(500_000))
    assert len(list(tmp_path.glob("*/*"))) > 70


def test_a_range_is_read_of_a_shard_too_large_to_keep(network: Network, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(4):
        (tmp_path / "set" / f"{number}.txt").write_bytes(bytes([number]) * 3_000_000)
    loralab("shards", tmp_path / "set", "s3://bucket/large")
    from loralab.data.sources import mounts

    mounts.mount("s3://bucket/large", "data.folder", tmp_path / "cache", 1_000_000)
    network.sent = 0
    with mounts.opened("s3://bucket/large/2.txt") as file:
        assert file.read() == bytes([2]) * 3_000_000
    assert network.sent == 3_000_000


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:word@bucket/set", "'s3://bucket/set' was given with credentials"),
        ("https://host/set?token=word", "'https://host/set' was given with credentials"),
        ("s3:///", "names no place"),
        ("abc://bucket", "unknown scheme"),
    ],
)
def test_refused_urls(url: str, said: str, train, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for setting in ("data.folder", "model.base", "data.mask_folder"):
        train("data=folder", f"data.folder={tmp_path}", f"{setting}={url}", code=1)
        shown = "".join(capsys.readouterr())
        assert f"{setting}: " in shown
        assert said in shown
        assert "word" not in shown
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"word" in file.read_bytes()]


@pytest.mark.parametrize(
    ("kind", "package", "install"),
    [
        ("s3", "s3fs", "loralab[s3]"),
        ("gs", "gcsfs", "loralab[gcs]"),
        ("gcs", "gcsfs", "loralab[gcs]"),
        ("hf", "huggingface_hub", "huggingface_hub"),
        ("az", "adlfs", "adlfs"),
    ],
)
def test_a_missing_package_is_named(kind: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's registry knows which one it is."""
    monkeypatch.setattr(urls, "find_spec", lambda name: None)
    assert urls.unusable_url(f"{kind}://bucket/set") == (
        f"'{kind}://bucket/set' needs {package}, which is not installed",
        f"pip install '{install}'",
    )


@pytest.mark.skipif(find_spec("paramiko") is not None, reason="paramiko is installed")
def test_a_package_that_a_module_of_fsspec_lacks_is_named() -> None:
    found = urls.unusable_url("sftp://host/set")
    assert found is not None
    assert '"paramiko"' in found[0]


def test_a_url_of_the_hub_gets_as_far_as_its_client() -> None:
    """Which asks the hub for the data set; here nothing answers."""
    code = "from loralab import remote; remote.WAITS = (); remote.files('hf://datasets/owner/name', 'data.folder')"
    given = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given, timeout=100)
    assert "data.folder: hf://datasets/owner/name could not be reached after 1 attempts" in done.stderr
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://user:pass@host:80/a/b?X-Sig=1&k=2, sorry", "at http://host:80/a/b sorry"),
        ("'s3://a/b' and s3://me@c/d'", "'s3://a/b' and s3://c/d'"),
        ("no url a@b ?x", "no url a@b ?x"),
    ],
)
def test_secrets_are_cut_out(text: str, shown: str) -> None:
    assert urls.without_secrets(text) == shown


def test_the_base_model_comes_from_it(train, network: Network, random_base: Path, images: Path) -> None:
    from tests.support.runs import adapter, record

    url = put(random_base, "models/sd")
    given = ("data=folder", f"data.folder={images}", "output.metadata=false")
    local = train(*given, name="local")
    contents = itertools.count()
    network.fault = lambda path: "drop" if path.endswith(".safetensors") and next(contents) % 3 == 0 else ""
    there = train(*given, f"model.base={url}", name="there")
    assert adapter(there) == adapter(local)
    assert network.faults["drop"] > 0
    network.sent = 0
    again = train(*given, f"model.base={url}", name="again")
    assert network.sent < 100_000  # a listing
    assert adapter(again) == adapter(local)
    assert record(again)["status"] == "finished"
    train(*given, "model.base=s3://bucket/models/none", name="none", code=1)
