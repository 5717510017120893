"""ModelSpec's words: in the header of the model itself, and in SwarmUI's ``NAME.swarm.json``.

The keys are those of github.com/Stability-AI/ModelSpec, which sd-scripts and SwarmUI write; ``ss_`` ones are
sd-scripts' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelhub.sidefiles.base import Claims, ModelFile, digest_pair
from modelhub.sidefiles.fields import JSON, long_text, phrases, tags, text

SUFFIX = ".swarm.json"
_PREFIX = "modelspec."


def is_it(data: JSON) -> bool:
    """Whether any key of *data* is one of ModelSpec's."""
    return any(isinstance(key, str) and key.startswith(_PREFIX) for key in data)


def read(data: JSON, file: ModelFile) -> Claims:
    """What *data* claims of the model *file*."""
    own = {key.removeprefix(_PREFIX): value for key, value in data.items() if isinstance(key, str)}
    phrase = long_text(own, "trigger_phrase")
    digest = digest_pair("autov3", own.get("hash_sha256"))
    return Claims(
        name=text(own, "title"),
        base_model=text(own, "architecture"),
        prediction_type=text(own, "prediction_type"),
        creator=text(own, "author"),
        licence=text(own, "license", longest=1000),
        triggers=phrases([phrase]),
        tags=tags(own.get("tags")),
        description=long_text(own, "description"),
        notes=long_text(own, "usage_hint"),
        digests=(digest,) if digest is not None and file.alone else (),
        dated=text(own, "date"),
    )


def claimed_in_header(metadata: Mapping[str, str]) -> Claims:
    """What a model's own *metadata* claim of it. Trigger words and digests are told apart from these."""
    said = read({key: value for key, value in metadata.items() if key.startswith(_PREFIX)}, ModelFile(""))
    return replace(
        said,
        name=said.name or text(metadata, "ss_output_name"),
        base_model=said.base_model or text(metadata, "ss_base_model_version"),
        notes=said.notes or long_text(metadata, "ss_training_comment"),
        triggers=(),
        digests=(),
    )
