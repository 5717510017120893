"""From the network into a folder: a plan that shows what it would bring, and downloads that are let in when they are
safe."""

from modelhub.fetching.fetch import FetchResult, fetch
from modelhub.fetching.newer import Newer, find_newer, update
from modelhub.fetching.plan import FetchPlan, PlannedFile, Unit, plan_fetch

__all__ = ["FetchPlan", "FetchResult", "Newer", "PlannedFile", "Unit", "fetch", "find_newer", "plan_fetch", "update"]
