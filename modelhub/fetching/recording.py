"""What is fetched, written down in the catalog: first as lying in quarantine, then where it was let in."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property

from modelhub import __version__
from modelhub.container import open_path
from modelhub.db import Catalog, Download, Entry
from modelhub.db.text import name_for
from modelhub.fetching.plan import FetchPlan, Unit
from modelhub.fetching.said import ORIGIN, Said, said_of
from modelhub.identify import stored
from modelhub.intake import Examination, examine
from modelhub.scan import Policy
from modelhub.source import shown_address
from modelhub.verbs import Inspection


@dataclass
class Ledger:
    """Examines what a fetch by *plan* brings, and writes it down, in no catalog if there is none."""

    plan: FetchPlan
    catalog: Catalog | None
    policy: Policy

    def examine(self, path: str) -> Examination:
        """Everything about the file or folder at *path*."""
        with open_path(path) as container:
            return examine(container, policy=self.policy)

    def arrived(self, examined: Examination, unit: Unit) -> Entry | None:
        """Write down what lies in quarantine, and where it came from."""
        return self._put(examined, unit, is_quarantined=True)

    def admitted(self, examined: Examination, unit: Unit, *, is_it: bool = True) -> Entry | None:
        """Write down that what was in quarantine, or is there already, lies at the target now; and, unless it may be
        something else (*is_it*), where it came from."""
        there = replace(examined, stat=examined.stat._replace(path=os.path.abspath(unit.target)))
        return self._put(there, unit, is_quarantined=False, is_it=is_it)

    def salvaged(self, examined: Examination, unit: Unit, target: str) -> Entry | None:
        """Write down that *target* has the tensors of what was in quarantine, and is not there any more."""
        made = self.examine(target)
        entry = self._put(made, replace(unit, target=target), is_quarantined=False, salvaged=True)
        if self.catalog is not None:
            self.catalog.derive(
                "convert",
                output=made.digest,
                inputs=[(examined.digest, "source")],
                params={"source_verdict": examined.report.verdict.label, "salvaged": True},
                version=__version__,
            )
        return entry

    def forget_removed(self) -> None:
        """Let what is not in quarantine any more not be told to be there."""
        if self.catalog is not None:
            self.catalog.origins.forget_quarantined()

    def _put(
        self,
        examined: Examination,
        unit: Unit,
        *,
        is_quarantined: bool,
        salvaged: bool = False,
        is_it: bool = True,
    ) -> Entry | None:
        if self.catalog is None:
            return None
        entry = self.catalog.record(
            examined.stat,
            examined.digest,
            examined.report,
            examined.identity,
            tensor_count=examined.tensor_count,
            parameter_count=examined.parameter_count,
            metadata=examined.metadata,
            version=__version__,
            name=name_for(unit.target, examined.is_folder),
            is_folder=examined.is_folder,
            observation=stored(examined.observation) if examined.observation is not None else None,
            problem=Inspection(examined.container, examined.identity).problem,
            is_quarantined=is_quarantined,
        )
        if not is_it:
            return entry
        files = tuple(file.as_dict() for file in unit.files)
        came = Download(shown_address(unit.address), self.plan.asked, files, salvaged, __version__)
        self.catalog.origins.put_download(examined.digest, came)
        if self._said is not None:
            said = self._said
            self.catalog.origins.put_claims(examined.digest, ORIGIN, said.address, said.claims.as_dict(), said.extra)
        return entry

    @cached_property
    def _said(self) -> Said | None:
        return said_of(self.plan.address, self.plan.claims)
