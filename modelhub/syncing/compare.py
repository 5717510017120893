"""What has become of the files that the catalog knows, told by their stats alone.

A file is known again by the first of these that holds, and where two places would do, nothing is guessed:

1. device, inode, size and modification time are those of a place that is gone, or whose path holds another file now;
2. inode, size, modification time and file name are those of a place whose disk is away: it was plugged in elsewhere;
3. its path is that of a place that is gone or, within their libraries, of one that is away, and so are its size and
   header (which has to be read for that);
4. size, modification time and file name are those of one place that is gone or away, and so is its header, and no
   second file says the same of itself.

A place whose disk is away, and whose inode the file has not, stays: the file may be a copy.

Only device and inode together prove that the bytes are the same, and a changed inode proves nothing of the contrary:
network file systems, FUSE and exFAT make inodes up, in the same order for two copies of a folder.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from modelhub.db import Known, Moved, Seen
from modelhub.syncing import unfinished


@dataclass(slots=True)
class Comparison:
    """What stats tell. ``changed`` and ``new`` have to be read; ``candidates`` are the places, by what
    :func:`likeness` gives, whose bytes a file to be read may be; ``lost_here`` those that were missing before, by path,
    and those that have the same path in a library that is not there;
    ``gone`` are the places whose path holds nothing any more, ``away`` the ids of those whose disk is not there."""

    unchanged: int = 0
    seen_again: list[tuple[Known, Seen]] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    linked: list[tuple[int, Seen]] = field(default_factory=list)
    changed: list[tuple[Known, Seen]] = field(default_factory=list)
    new: list[Seen] = field(default_factory=list)
    candidates: dict[tuple[int, int, str], list[Known]] = field(default_factory=dict)
    lost_here: dict[str, list[Known]] = field(default_factory=dict)
    gone: list[Known] = field(default_factory=list)
    away: set[int] = field(default_factory=set)


def likeness(place: Known | Seen) -> tuple[int, int, str]:
    """What two places of the same bytes have in common after a copy that keeps times."""
    return place.size, place.mtime_ns, os.path.basename(place.path)


def _proof(place: Known | Seen) -> tuple[int, int, int, int]:
    return place.dev, place.ino, place.size, place.mtime_ns


def compare(known: Sequence[Known], seen: Iterable[Seen], lost: Sequence[Known]) -> Comparison:
    """Compare the places that are *known* with the files that were *seen*; *lost* are the places that were missing
    before."""
    result = Comparison()
    here = {place.path: place for place in known}
    arrivals: list[Seen] = []
    staying: dict[tuple[int, int, int, int], int] = {}
    for file in seen:
        place = here.get(file.path)
        if place is not None and place[4:8] == file[1:5] and place.is_folder == file.is_folder:
            del here[file.path]
            staying[file[3], file[4], file[1], file[2]] = place.content_id
            if place.problem is not None and unfinished.has_ended(place.problem, place.path):
                result.changed.append((place, file))
            elif place.state == "live" and place.root_id == file.root_id:
                result.unchanged += 1
            else:
                result.seen_again.append((place, file))
        elif place is not None and place.ino == file.ino and _same_but_for_device(place, file):
            del here[file.path]
            result.seen_again.append((place, file))
            staying[_proof(file)] = place.content_id
        else:
            arrivals.append(file)
    _follow_inodes(result, here, arrivals, staying, lost)
    return result


def _same_but_for_device(place: Known, file: Seen) -> bool:
    """A disk that was plugged in again has another number, and everything on it is as it was."""
    return place.size == file.size and place.mtime_ns == file.mtime_ns and place.is_folder == file.is_folder


def _follow_inodes(
    result: Comparison,
    here: dict[str, Known],
    arrivals: Sequence[Seen],
    staying: dict[tuple[int, int, int, int], int],
    lost: Sequence[Known],
) -> None:
    """Find *arrivals* among what is no longer as it was: places whose path is gone or holds another file."""
    adrift: defaultdict[tuple[int, int, int, int], list[Known]] = defaultdict(list)
    for place in (*here.values(), *lost):
        adrift[_proof(place)].append(place)
    claimed: set[int] = set()
    rest: list[Seen] = []
    for file in arrivals:
        there = [place for place in adrift.get(_proof(file), ()) if place.id not in claimed]
        if _proof(file) in staying:
            result.linked.append((staying[_proof(file)], file))
        elif there and len({place.content_id for place in there}) == 1:
            place = next((each for each in there if each.path == file.path), there[0])
            claimed.add(place.id)
            staying[_proof(file)] = place.content_id
            result.moved.append(Moved(place, file, True, kind_of_move(place, file)))
        else:
            rest.append(file)
    arrived = {move.seen.path for move in result.moved} | {file.path for _, file in result.linked}
    for file in rest:
        before = here.get(file.path)
        if before is not None and before.id not in claimed:
            claimed.add(before.id)
            result.changed.append((before, file))
        else:
            result.new.append(file)
    candidates: defaultdict[tuple[int, int, str], list[Known]] = defaultdict(list)
    for place in here.values():
        if place.id not in claimed:
            result.gone.append(place)
            if place.path not in arrived:
                candidates[likeness(place)].append(place)
    for place in lost:
        if place.id not in claimed:
            candidates[likeness(place)].append(place)
            result.lost_here.setdefault(place.path, []).append(place)
    result.candidates = dict(candidates)


def look_among(absent: Iterable[Known], result: Comparison, roots: Mapping[int | None, str]) -> None:
    """Find what is new in *result* among the *absent* places, whose disk is not there: it may be under another path.

    *roots* are the paths of the libraries: a file that has the same path in its library as one that is absent in
    another may be that one, whatever its time.
    """
    ways: defaultdict[str | None, list[Known]] = defaultdict(list)
    places: defaultdict[tuple[object, ...], list[Known]] = defaultdict(list)
    for place in absent:
        result.away.add(place.id)
        places[place.ino, place.is_folder, *likeness(place)].append(place)
        ways[_way_to(place, roots)].append(place)
    ways.pop(None, None)
    new, result.new = result.new, []
    for file in new:
        there = places.get((file.ino, file.is_folder, *likeness(file)), [])
        if there and len({place.content_id for place in there}) == 1:
            place = there.pop(0)
            result.moved.append(Moved(place, file, place.dev == file.dev, "moved"))
        else:
            result.new.append(file)
            if alike := ways.get(_way_to(file, roots)):
                result.lost_here.setdefault(file.path, []).extend(alike)
    for place in chain.from_iterable(places.values()):
        result.candidates.setdefault(likeness(place), []).append(place)


def _way_to(place: Known | Seen, roots: Mapping[int | None, str]) -> str | None:
    """The path of *place* in its library; ``None`` where it lies outside of that."""
    root = os.path.join(roots.get(place.root_id, ""), "")
    return place.path[len(root) :] if root and place.path.startswith(root) else None


class Print(NamedTuple):
    """Digests of a file's header and of samples of its bytes, in hex. ``whole`` is what catalogs have had of the former
    before its list of tensors had a digest of its own (``docs/adr/0031-a-header-is-digested-in-parts.md``)."""

    header: str
    sample: str
    whole: str

    def has_header_of(self, place: Known) -> bool:
        return place.header in (self.header, self.whole)

    def is_of(self, place: Known) -> bool:
        """Whether the catalog has these digests of the bytes at *place*."""
        return self.sample == place.sample and self.has_header_of(place)


@dataclass(slots=True)
class Decision:
    """What headers tell of the files that stats had left open. ``added`` come with the place that they take the path
    of; ``unclear`` are files that might be any of several lost ones, and are among ``added``."""

    moved: list[Moved] = field(default_factory=list)
    touched: list[tuple[Known, Seen]] = field(default_factory=list)
    grown: list[tuple[Known, Seen]] = field(default_factory=list)
    added: list[tuple[Known | None, Seen]] = field(default_factory=list)
    missing: list[Known] = field(default_factory=list)
    unclear: list[tuple[Seen, tuple[Known, ...]]] = field(default_factory=list)


def to_be_read(comparison: Comparison) -> list[Seen]:
    """The files of *comparison* whose headers decide what they are."""
    likely = set(comparison.candidates) | {likeness(place) for place, _ in comparison.changed}
    return [file for _, file in comparison.changed] + [
        file for file in comparison.new if likeness(file) in likely or file.path in comparison.lost_here
    ]


def decide(comparison: Comparison, prints: Mapping[str, Print]) -> Decision:
    """What *comparison* comes to with the *prints*, by path, of the files :func:`to_be_read`; what has changed and has
    no print stays as it was."""
    result = Decision()
    candidates = defaultdict(list, {key: list(places) for key, places in comparison.candidates.items()})
    arrivals: list[tuple[Known | None, Seen]] = [(None, file) for file in comparison.new]
    for before, file in comparison.changed:
        found = prints.get(file.path)
        if found is None:
            continue
        if _is_further(before, file, found):
            result.grown.append((before, file))
        elif file.size == before.size and found.is_of(before):
            result.touched.append((before, file))
        else:
            candidates[likeness(before)].append(before)
            arrivals.append((before, file))
    alike = Counter((likeness(file), prints.get(file.path)) for _, file in arrivals)
    claimed: set[int] = set()
    displaced: list[Known] = []
    for before_it, file in arrivals:
        found = prints.get(file.path)
        same = [place for place in candidates.get(likeness(file), ()) if found is not None and found.is_of(place)]
        back = [
            place
            for place in comparison.lost_here.get(file.path, ())
            if place.size == file.size and found is not None and found.is_of(place)
        ]
        is_clear = alike[likeness(file), found] == 1 and len({place.content_id for place in same}) == 1
        if not is_clear and same and not back:
            result.unclear.append((file, tuple(same)))
        fitting = [place for place in (*back, *(same if is_clear else ())) if place.id not in claimed]
        if not fitting:
            result.added.append((before_it, file))
            continue
        place = fitting[0]
        claimed.add(place.id)
        stays = place.id in comparison.away
        kind = "linked" if stays else kind_of_move(place, file)
        result.moved.append(Moved(place, file, False, kind, stays))
        if before_it is not None:
            displaced.append(before_it)
    claimed |= {before_it.id for before_it, _ in result.added if before_it is not None}
    result.missing = [place for place in (*comparison.gone, *displaced) if place.id not in claimed]
    return result


def kind_of_move(place: Known, file: Seen) -> str:
    """``returned`` for what had been missing or is where it was, else ``moved``."""
    return "returned" if place.path == file.path or place.state in ("missing", "removed", "replaced") else "moved"


def _is_further(place: Known, file: Seen, found: Print) -> bool:
    """Whether *file* is the download that was cut off, or went on, at *place* when it was last seen, further on."""
    problem = place.problem or ""
    is_same = place[4:8] == file[1:5]
    if is_same or place.hashed:
        return is_same and unfinished.has_ended(problem, place.path)
    same_file = (place.dev, place.ino) == (file.dev, file.ino)
    if unfinished.is_told_by(problem):
        return same_file
    if file.size <= place.size:
        return False
    cut_off = "cut off" in problem or "ends inside" in problem
    return place.size == 0 or (cut_off and (same_file or found.has_header_of(place)))
