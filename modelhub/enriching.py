"""What a service that speaks Civitai's API says of the catalog's bytes, asked by their SHA-256; off unless the user has
named one.

What it answers is a claim, kept with its origin and its day. Asked are ``/api/v1/model-versions/by-hash/SHA256`` and,
for what belongs to all versions of a model, ``/api/v1/models/ID`` (developer.civitai.com, "Model versions", "Models").
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelhub.convert.target import write_file
from modelhub.db import Catalog, Entry, Query
from modelhub.errors import ModelHubError, NotFound, SettingsError, SourceError
from modelhub.sidefiles import Claims, ModelFile, civitai
from modelhub.sidefiles.fields import JSON, part, text, whole
from modelhub.sidefiles.pictures import EXTENSIONS, media_type
from modelhub.source import Digest, shown_address

if TYPE_CHECKING:
    from modelhub.source.web import Web

ORIGIN = "civitai"
"""Whose words they are."""

TOKEN = "MODELHUB_ENRICH_TOKEN"  # noqa: S105 (the name of a variable)
"""The environment variable with the service's token, if it wants one; it is sent to the endpoint's origin alone."""

_LARGEST = 8 << 20
"""Bytes of an answer, and of a picture, that are taken."""
_MOST_VERSIONS, _MOST_PICTURES = 50, 20
_GIVE_UP = 3
"""Records in a row that cannot be asked for, after which the service is left alone."""

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif", "video/mp4": ".mp4"}


@dataclass(frozen=True, slots=True)
class Enriched:
    """What came of one record. ``state``: ``told``, ``unknown`` (the service does not know these bytes), ``not hashed``
    or ``failed``; ``claims`` are what was told, ``preview`` the picture that was written beside the model."""

    entry: Entry
    state: str
    claims: Claims | None = None
    preview: str | None = None
    error: ModelHubError | None = None


def enrich(
    catalog: Catalog, endpoint: str | None, selectors: Sequence[str] = (), *, previews: bool = False
) -> Iterator[Enriched]:
    """Ask the service at *endpoint* about the records that *selectors* fit, or all, and keep what it says.

    With *previews* the first picture is written beside a model that has none. Raises :class:`SettingsError` where no
    endpoint is set; a record that cannot be asked for is a result with its error, and three in a row are the last.
    """
    if not endpoint:
        hint = 'set MODELHUB_ENRICH_ENDPOINT, or enrich_endpoint = "https://..." in your config.toml'
        raise SettingsError("no service is asked about models unless you name one", hint=hint)
    chosen = [catalog.show(each).entry for each in selectors] if selectors else catalog.entries(Query(sort="added"))
    service = _Service(endpoint.rstrip("/"))
    failures = 0
    try:
        for entry in chosen:
            if entry.digest is None:
                yield Enriched(entry, "not hashed")
                continue
            try:
                yield service.ask(catalog, entry, entry.digest, previews)
                failures = 0
            except (ModelHubError, OSError) as error:
                told = error if isinstance(error, ModelHubError) else SourceError(f"{entry.name}: {error}")
                yield Enriched(entry, "failed", error=told)
                failures += 1
                if failures == _GIVE_UP:
                    return
    finally:
        service.web.close()


class _Service:
    """A service, and the models that it has been asked about."""

    def __init__(self, endpoint: str) -> None:
        from modelhub.source.web import Credentials, Web, origin_of

        token = os.environ.get(TOKEN)
        self._endpoint = endpoint
        self.web: Web = Web(Credentials(origin_of(endpoint), f"Bearer {token}") if token else None)
        self._models: dict[int, JSON] = {}

    def ask(self, catalog: Catalog, entry: Entry, sha256: str, previews: bool) -> Enriched:
        try:
            version = self._json(f"/api/v1/model-versions/by-hash/{sha256}")
        except NotFound:
            return Enriched(entry, "unknown")
        model_id = whole(version, "modelId")
        model = self._model(model_id) if model_id is not None else {}
        claims = _claims(version, model, entry, sha256)
        pictures = _pictures(version)
        address = f"{shown_address(self._endpoint)}/api/v1/model-versions/by-hash/{sha256}"
        extra = {"versions": _versions(model), "previews": pictures}
        said = {name: value for name, value in extra.items() if value}
        catalog.origins.put_claims(Digest(sha256), ORIGIN, address, claims.as_dict(), said)
        preview = self._save(pictures[0], entry) if previews and pictures else None
        return Enriched(entry, "told", claims, preview)

    def _model(self, model_id: int) -> JSON:
        if model_id not in self._models:
            try:
                self._models[model_id] = self._json(f"/api/v1/models/{model_id}")
            except NotFound:  # a model may be gone whose versions are still answered for
                self._models[model_id] = {}
        return self._models[model_id]

    def _json(self, path: str) -> JSON:
        name = shown_address(self._endpoint + path)
        try:
            answer = json.loads(self._read(self._endpoint + path, name), parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{name}: the answer is not JSON", path=name) from error
        if not isinstance(answer, dict):
            raise SourceError(f"{name}: the answer is no JSON object", path=name)
        return answer

    def _read(self, url: str, name: str, *, told_by: str | None = None) -> bytes:
        from modelhub.source.web import read_body

        with self.web.get(url, {}, name, told_by=told_by) as response:
            data = b"".join(read_body(response, _LARGEST + 1, name))
        if len(data) > _LARGEST:
            raise SourceError(f"{name}: more than {_LARGEST >> 20} MiB", path=name)
        return data

    def _save(self, url: str, entry: Entry) -> str | None:
        """Write the picture at *url* beside the model, where it is and has none; returns its path."""
        if entry.path is None or entry.state != "live" or os.path.isdir(entry.path):
            return None
        stem = os.path.splitext(entry.path)[0]
        if any(os.path.lexists(stem + middle + each) for middle in ("", ".preview") for each in EXTENSIONS):
            return None
        data = self._read(url, shown_address(url), told_by=self._endpoint)
        suffix = _SUFFIXES.get(media_type(data[:32]) or "")
        if suffix is None:
            raise SourceError(f"{shown_address(url)}: is no picture or film", path=shown_address(url))
        path = f"{stem}.preview{suffix}"
        write_file(path, data, force=False)
        return path


def _claims(version: JSON, model: JSON, entry: Entry, sha256: str) -> Claims:
    """What is said of the version, and of the model that it is one of."""
    files = version.get("files")
    listed = [each for each in files if isinstance(each, dict)] if isinstance(files, list) else []
    own = [each for each in listed if str(part(each, "hashes").get("SHA256", "")).lower() == sha256]
    file = ModelFile(os.path.basename(entry.path or entry.name), entry.size)
    claims = civitai.read({**version, "files": own or listed}, file)
    whole_model = civitai.read(model, file)
    return replace(
        claims,
        creator=claims.creator or whole_model.creator,
        licence=claims.licence or whole_model.licence,
        tags=claims.tags or whole_model.tags,
        description=claims.description or whole_model.description,
    )


def _versions(model: JSON) -> list[dict[str, Any]]:
    """The versions of the model, as it lists them."""
    listed = model.get("modelVersions")
    known = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [
        {"id": whole(each, "id"), "name": text(each, "name"), "base_model": text(each, "baseModel")}
        for each in known[:_MOST_VERSIONS]
    ]


def _pictures(version: JSON) -> list[str]:
    """The addresses of the version's pictures."""
    listed = version.get("images")
    found = (
        [text(each, "url", longest=1000) for each in listed if isinstance(each, dict)]
        if isinstance(listed, list)
        else []
    )
    return [each for each in found if each is not None and each.startswith(("https://", "http://"))][:_MOST_PICTURES]
