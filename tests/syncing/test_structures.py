"""What is remembered of files with the same tensors is what reading each of them alone says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modelhub.syncing.structures as room
from modelhub.container.safetensors import encode_header
from modelhub.db import Reading, Seen
from modelhub.syncing.reading import Reader
from modelhub.tensors import DTYPE_BY_LABEL
from tests.syncing.files import STEM, put

F16 = DTYPE_BY_LABEL["F16"]
KEYS = st.sampled_from(
    ["modelspec.architecture", "ss_base_model_version", "modelspec.prediction_type", "ss_v2", "title", "__metadata__"]
)
VALUES = st.sampled_from(["stable-diffusion-xl-v1-base/lora", "sd_v1", "v", "True", "x", 'a "quoted" }', "\u00e9\\"])


def with_alpha(metadata: dict[str, str], alpha: bytes, width: int = 4) -> bytes:
    """A LoRA whose alpha has the two bytes *alpha*, with *metadata*."""
    tensors = [
        (f"{STEM}.alpha", F16, (), 2),
        (f"{STEM}.lora_down.weight", F16, (width, 768), width * 1536),
        (f"{STEM}.lora_up.weight", F16, (320, width), 640 * width),
    ]
    return encode_header(tensors, metadata) + alpha + bytes(width * (1536 + 640))


def read(path: Path, reader: Reader) -> Reading:
    st_ = path.stat()
    return reader.read(Seen(str(path), st_.st_size, st_.st_mtime_ns, st_.st_dev, st_.st_ino, 1))


def alone(path: Path) -> Reading:
    """What is read of *path* without any memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.Structures, "tell", lambda *_: None)
        return read(path, Reader())


def whole(reading: Reading) -> Reading:
    """*reading* in one form: what has been said before said again, and the metadata in both places."""
    observation = json.loads(reading.observation)
    for file in observation["files"].values():
        if file["metadata"] is None:
            file["metadata"] = json.loads(reading.metadata)
    return reading._replace(layout=None, observation=json.dumps(observation, sort_keys=True))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(
        st.tuples(
            st.dictionaries(KEYS, VALUES, max_size=3),
            st.sampled_from([b"\x00\x44", b"\x00\x3c", b"\x00\x7e"]),
            st.sampled_from([4, 8]),
            st.sampled_from([0, -1, 5]),
            st.sampled_from([None, "parameterization: v", "target: ldm.models.diffusion.ddpm.LatentDiffusion"]),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_together_as_alone(tmp_path: Path, files: list[tuple[dict[str, str], bytes, int, int, str | None]]) -> None:
    """Files of the same and other tensors, metadata, numbers, lengths and side files are each told as if alone."""
    reader = Reader()
    for metadata, alpha, width, extra, beside in files:
        (tmp_path / "m.yaml").unlink(missing_ok=True)
        if beside is not None:
            put(tmp_path / "m.yaml", beside.encode())
        data = with_alpha(metadata, alpha, width)
        path = tmp_path / "m.safetensors"
        put(path, data[:extra] if extra < 0 else data + bytes(extra))
        assert whole(read(path, reader)) == whole(alone(path))


@pytest.mark.parametrize(
    "header",
    [
        '{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"__metadata__":{"k":"v"}}',
        '{"__metadata__":{"k":"v"},"__metadata__":{"k":"w"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":{"k":"v","k":"w"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":{"k":1},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":{"k":{"l":"m"}},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":{"k":"\\ud800"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":null,"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":[],"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":{},"\\u005f_metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"\\u005f_metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":{"k":"v"} "a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":{"k":"v"}}',
        '{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}',
        '{"__metadata__":{"k":"v"',
    ],
)
def test_odd_headers(tmp_path: Path, header: str) -> None:
    """Headers made to be read in two ways are told as the full reader tells them, after good ones like them."""
    reader = Reader()
    good = '{"__metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'
    for text in (good, header, good, header):
        path = tmp_path / "m.safetensors"
        put(path, len(text).to_bytes(8, "little") + text.encode() + bytes(4))
        assert whole(read(path, reader)) == whole(alone(path))


def test_it_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred LoRAs of one trainer are parsed once and identified once, whatever their titles and tags."""
    asked = []
    real = room.identify_observation
    monkeypatch.setattr(room, "identify_observation", lambda observation: asked.append(1) or real(observation))
    monkeypatch.setattr("modelhub.syncing.reading.open_path", None)
    reader = Reader()
    for number in range(100):
        title = {"title": "x" * (number % 9), "ss_output_name": f"model {number}"}
        put(tmp_path / "m.safetensors", with_alpha(title, b"\x00\x44"))
        reading = read(tmp_path / "m.safetensors", reader)
        assert reading.identity["kind"] == "lora"
        assert (reading.layout is not None) == (number == 0)
        assert json.loads(reading.metadata)["ss_output_name"].endswith(str(number))
    assert len(asked) == 1
