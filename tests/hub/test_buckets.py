"""What lies in object stores, through their makers' own clients: judged, named and fetched as from the Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelhub import verbs
from modelhub.errors import AccessDenied, ChangedDuringRead, NotFound, SourceError
from modelhub.source import gcs, s3, shown_address
from modelhub.source.buckets import bucket_reference_of
from tests.cli.run import ROOT, modelhub
from tests.hub.buckets import Buckets, running, service_account
from tests.hub.server import Blob
from tests.hub.test_fetch import SYSTEM, fetched, files, pickled, pipeline, safetensors

STORES = ["s3", "gs"]


@pytest.fixture
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Buckets]:
    """Empty stores, which both clients ask, with credentials that they take."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("AWS_", "GOOGLE_")):
            monkeypatch.delenv(name)
    account = tmp_path / "account.json"
    with running() as started:
        account.write_text(service_account(started.url))
        for name, value in {
            "AWS_ENDPOINT_URL_S3": started.url,
            "AWS_ACCESS_KEY_ID": started.access_key,
            "AWS_SECRET_ACCESS_KEY": started.secret_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "STORAGE_EMULATOR_HOST": started.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(account),
            "NO_GCE_CHECK": "true",
        }.items():
            monkeypatch.setenv(name, value)
        _forget()
        yield started
        _forget()


def _forget() -> None:
    s3._client.cache_clear()
    gcs._credentials.cache_clear()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_object_is_judged_by_ranges(buckets: Buckets, store: str, tmp_path: Path) -> None:
    """An object is judged without reading all of it, under an address that says which version it was."""
    import tests.hub.files as sparse

    sparse.sparse_checkpoint(tmp_path / "a.ckpt", 40, 100_000)
    data = (tmp_path / "a.ckpt").read_bytes()
    buckets.put("models", "sd/a b.ckpt", data)
    ran = modelhub("scan", f"{store}://models/sd/a b.ckpt", "--format", "json")
    [report] = ran.json()["reports"]
    version = f"#{buckets.generation('models', 'sd/a b.ckpt')}" if store == "gs" else ""
    assert (ran.code, report["verdict"], report["path"]) == (0, "safe", f"{store}://models/sd/a b.ckpt{version}")
    assert sum(seen.sent for seen in buckets.seen) < len(data) / 10
    assert modelhub("inspect", f"{store}://models/sd/a b.ckpt").code == 0
    assert modelhub("scan", report["path"]).code == 0


def test_all_below_a_prefix(buckets: Buckets, store: str, tmp_path: Path) -> None:
    """All models whose keys begin alike are judged, a pipeline as one; other keys are not asked for."""
    for path, content in pipeline(tmp_path).items():
        buckets.put("models", f"all/pipe/{path}", content)
    buckets.put("models", "all/evil.pt", SYSTEM)
    buckets.put("models", "all/notes.txt", b"text")
    buckets.put("models", "all/", b"")
    buckets.put("models", "allother/x.pt", SYSTEM)
    for address in (f"{store}://models/all", f"{store}://models/all/"):
        ran = modelhub("scan", address, "--format", "json")
        verdicts = {report["path"].partition("#")[0]: report["verdict"] for report in ran.json()["reports"]}
        assert verdicts == {f"{store}://models/all/pipe/": "unsafe", f"{store}://models/all/evil.pt": "unsafe"}
    assert not [seen for seen in buckets.seen if "notes.txt" in seen.path and "list" not in seen.path]
    assert len(modelhub("scan", f"{store}://models", "--format", "json").json()["reports"]) == 3


def test_fetching(buckets: Buckets, store: str, tmp_path: Path) -> None:
    """An object, and a pipeline below a prefix, are fetched through the same gate; what is unsafe is not."""
    data = safetensors(tmp_path, 1)
    buckets.put("models", "sd/a.safetensors", data)
    ran = fetched(f"{store}://models/sd/a.safetensors")
    assert (ran.code, ran.json()["units"][0]["action"]) == (0, "fetched")
    assert Path("a.safetensors").read_bytes() == data
    origin = json.loads(Path("a.safetensors.origin.json").read_text())
    assert origin["address"].startswith(f"{store}://models/sd/a.safetensors")
    there = pipeline(tmp_path)
    for path, content in there.items():
        buckets.put("models", f"pipe/{path}", content)
    ran = fetched(f"{store}://models/pipe/", "--to", "got")
    assert (ran.code, [unit["action"] for unit in ran.json()["units"]]) == (0, ["fetched"])
    assert [name for name in files() if name.startswith("got/")] == [
        "got/models/pipe.origin.json",
        "got/models/pipe/model_index.json",
        "got/models/pipe/unet/config.json",
        "got/models/pipe/unet/diffusion_pytorch_model.safetensors",
    ]
    buckets.put("models", "evil.pt", SYSTEM)
    ran = fetched(f"{store}://models/evil.pt")
    assert (ran.code, ran.json()["units"][0]["action"]) == (1, "refused")


def test_public_buckets(buckets: Buckets, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, what everybody may read is read, and the rest is told with the way out."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    buckets.put("models", "a.pt", pickled(tmp_path, 1))
    for target in ("a.pt", ""):
        ran = modelhub("scan", f"{store}://models/{target}")
        assert ran.code == 2
        assert "may not be read" in ran.out or "not public" in ran.out
    with pytest.raises(AccessDenied) as caught:
        verbs.scan(f"{store}://models/a.pt")
    assert ("AWS_PROFILE" if store == "s3" else "GOOGLE_APPLICATION_CREDENTIALS") in caught.value.hint
    buckets.public.add("models")
    assert modelhub("scan", f"{store}://models/a.pt", f"{store}://models").code == 0


def test_what_is_not_there(buckets: Buckets, store: str, tmp_path: Path) -> None:
    """What names nothing, or nothing that is there, ends in a sentence and with 2."""
    buckets.put("models", "a.pt", pickled(tmp_path, 1))
    for address in (f"{store}://models/none.pt", f"{store}://models/none/", f"{store}://no-such-bucket/none/"):
        ran = modelhub("scan", address)
        assert ran.code == 2
        assert "Traceback" not in ran.err
        assert "please report" not in ran.out
        assert modelhub("fetch", address).code == 2
    for address in (f"{store}://", f"{store}://x", f"{store}://a:b@c/x", f"{store}://bucket?x/y"):
        with pytest.raises(NotFound):
            verbs.scan(address)


def test_an_object_that_changes(buckets: Buckets, store: str, tmp_path: Path) -> None:
    """An object that is another one on the second request is an error."""
    data = pickled(tmp_path, 1)
    buckets.put("models", "a.pt", data)
    asked: list[str] = []

    def fault(handler, part: str) -> bool:
        if "range" not in handler.headers:
            return False
        asked.append(part)
        if len(asked) < 2:
            return False
        handler.bytes_of(Blob(data), {"ETag": '"another"'})
        return True

    buckets.fault = fault
    with pytest.raises(ChangedDuringRead):
        verbs.scan(f"{store}://models/a.pt")


def test_a_generation_that_is_gone(buckets: Buckets, tmp_path: Path) -> None:
    """The address of a generation never means another."""
    buckets.put("models", "a.pt", pickled(tmp_path, 1))
    first = f"gs://models/a.pt#{buckets.generation('models', 'a.pt')}"
    assert verbs.scan(first).verdict.label == "safe"
    buckets.put("models", "a.pt", pickled(tmp_path, 2))
    with pytest.raises(NotFound):
        verbs.scan(first)


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b"null", b"<html>", b'{"generation":5}', b"[" * 50_000, b" " * (9 << 20)]
)
def test_odd_answers(buckets: Buckets, body: bytes, tmp_path: Path) -> None:
    """An answer of the store's that says nothing, or has no end, is an error of that address."""
    buckets.put("models", "a.pt", pickled(tmp_path, 1))
    buckets.fault = lambda handler, part: "/o/" in handler.path and not handler.reply(200, {}, body)
    with pytest.raises(SourceError):
        verbs.scan("gs://models/a.pt")
    buckets.fault = lambda handler, part: "prefix" in handler.path and not handler.reply(200, {}, body)
    ran = modelhub("scan", "gs://models/", "s3://models/")
    assert ran.code == 2
    assert "please report" not in ran.out + ran.err


def test_nothing_secret_is_shown(buckets: Buckets, store: str, tmp_path: Path) -> None:
    """Neither a signature nor a key nor a token stands in what is said or written, whatever goes wrong."""
    buckets.put("models", "a.safetensors", safetensors(tmp_path, 1))
    said = [modelhub("scan", f"{store}://models/a.safetensors", "-vv"), fetched(f"{store}://models/a.safetensors")]
    for status in (403, 404, 429, 500, 302):
        more = {"Location": "https://10.0.0.1/x"} if status == 302 else {"Retry-After": "3600"}
        buckets.fault = lambda handler, part, s=status, m=more: not handler.reply(s, m, b"")
        said.append(modelhub("scan", f"{store}://models/a.safetensors", "-vv"))
        _forget()
    text = "".join(each.out + each.err for each in said)
    text += "".join(Path(name).read_text(errors="replace") for name in files() if name.endswith(".json"))
    for secret in ("X-Amz", "Signature", buckets.secret_key, buckets.token, buckets.access_key):
        assert secret not in text


def test_addresses() -> None:
    """A key may have any characters; a number after # is a generation, in Google's store alone."""
    assert str(bucket_reference_of("s3://models/a#5")) == "s3://models/a#5"
    assert bucket_reference_of("s3://models/a#5").path == "a#5"
    assert bucket_reference_of("gs://models/a?b#5").generation == "5"
    assert bucket_reference_of("gs://models").is_folder
    assert shown_address("s3://models/a?b#5") == "s3://models/a?b#5"


def test_clients_are_loaded_for_addresses_of_buckets_alone(tmp_path: Path) -> None:
    """Neither a path nor an address of the Hub's loads the stores' clients."""
    code = "import sys; from modelhub.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "scan", "none.pt", "https://127.0.0.1:1/x"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "modelhub.source.network" in done.stdout.split()
    assert not {"botocore", "google.auth", "modelhub.source.s3", "modelhub.source.gcs"} & set(done.stdout.split())


def test_a_bucket_that_is_one_model(buckets: Buckets, store: str, tmp_path: Path) -> None:
    """A bucket that is a pipeline itself is fetched as one; what else lies in quarantine stays there."""
    there = pipeline(tmp_path)
    for name in ("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"):
        buckets.put("models", name, there[name])
    kept = Path(".modelhub-quarantine/other/evil.pt")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(SYSTEM)
    ran = fetched(f"{store}://models")
    assert (ran.code, ran.json()["units"][0]["action"]) == (0, "fetched")
    assert kept.read_bytes() == SYSTEM
    assert not list(Path("models").rglob("evil.pt"))
