"""From the network into a folder: a plan that shows what it would bring, and downloads that are let in when they are
safe."""

from modelhub.fetching.fetch import FetchResult, fetch
from modelhub.fetching.plan import FetchPlan, PlannedFile, Unit, plan_fetch

__all__ = ["FetchPlan", "FetchResult", "PlannedFile", "Unit", "fetch", "plan_fetch"]
