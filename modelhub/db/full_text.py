"""Words, and the records in which they occur.

``about`` holds what people and file names say (name, paths, tags, notes, trigger words, side files): a word sought may
lie anywhere within one of its words. ``words`` holds what the header says, megabytes of it in some files: there a word
sought begins a word, except where no index can tell words apart (signs, and scripts beside the Latin one), where it may
lie anywhere. SQLite answers from its full-text indexes, PostgreSQL from GIN indexes over trigrams and a tsvector.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    TextualSelect,
    UnaryExpression,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.sql.operators import custom_op

from modelhub.db.artifacts import HOLDER
from modelhub.db.schema import (
    BEYOND_ASCII,
    BY_NAME,
    ODD,
    download,
    location,
    record,
    record_tag,
    remote_claim,
    search_text,
    side_file,
)
from modelhub.db.text import distinct_words, sought
from modelhub.db.triggers import listed, trigger_words
from modelhub.errors import CatalogError

INDEXED = 2 << 20
"""Characters of a file's metadata that are made searchable: all of it but for files made to be absurd."""

MOST_WORDS = 64
LONGEST_WORD = 1000
"""Bounds of a search; SQLite refuses patterns of 50,000 bytes and conditions 1,000 deep (sqlite.org/limits.html)."""

_AROUND = ',"“”„«»'
_SHORTEST_PART = 3  # characters that the trigram index needs
_LONGEST_PART = 250  # letters of a word that the tsvector keeps together; see the migration that makes it
_TOKEN = re.compile(r"[a-z0-9]+")
_PLUS: custom_op[int] = custom_op("+")
_FEW = 5000
"""Texts that are looked through at once, in the order in which they lie on the disk; more are when their turn comes."""
_PLAIN = frozenset(each for each in map(chr, range(1, 128)) if not each.isspace() and not each.isupper()) | {"\n"}
"""Characters of folded text that are no letters of other scripts; lines are parted by the last."""
_MOST_PARTS = 2000
"""Parts that the index is asked for at once."""
_SAMPLE, _OFTEN = 200, 20
"""Records, the first by name, that are looked at to tell whether many have a word; how many of them must."""
_IS_FIRST = search_text.c.content_id.in_(select(record.c.content_id).order_by(BY_NAME, record.c.id).limit(_SAMPLE))


def conditions(connection: Connection, sentence: str) -> list[ColumnElement[bool]]:
    """That each word of *sentence* occurs in the content; nothing for no words.

    Commas and quotes around a word are left out, as where a list of trigger words is asked for.
    """
    words = {word.strip(_AROUND) or word for word in sentence.split()}
    if len(words) > MOST_WORDS or any(len(word) > LONGEST_WORD for word in words):
        raise CatalogError(f"a search takes up to {MOST_WORDS} words of up to {LONGEST_WORD:,} characters")
    found = _found_by_sqlite if connection.dialect.name == "sqlite" else _found_by_others
    spellings = [sorted(sought(word)) for word in sorted(words)]
    return [or_(*(way for each in ways for way in found(connection, each))) for ways in spellings]


def _found_by_sqlite(connection: Connection, spelling: str) -> Iterator[ColumnElement[bool]]:
    """That *spelling* lies in ``about``, or in ``words``. What an index finds by a whole word, or by all parts of three
    characters, is not looked at again.

    The sign keeps SQLite from going through all that was found, to sort it: it goes through the records in their order,
    and a page of a list ends early.
    """
    this: ColumnElement[int] = UnaryExpression(record.c.content_id, operator=_PLUS)
    if len(spelling) >= _SHORTEST_PART and "\0" not in spelling:
        yield this.in_(_matching("about", _quoted(spelling)))
    else:
        yield _is_short_part(connection, this, spelling)
    tokens = _tokens(spelling)
    holding = _holding(search_text.c.words, spelling)
    if not tokens:
        yield this.in_(holding if spelling.isascii() else holding.where(BEYOND_ASCII))
        return
    found = _matching("words", " ".join(map(_quoted, tokens)) + "*")
    if tokens == [spelling]:
        yield this.in_(found)
        return
    ids = list(connection.scalars(select(found.subquery()).limit(_FEW)))
    if len(ids) < _FEW:
        yield this.in_(holding.where(search_text.c.content_id.in_(_listed(ids))))
    else:
        yield this.in_(found) & holding.where(search_text.c.content_id == record.c.content_id).exists()


def _is_short_part(connection: Connection, this: ColumnElement[int], spelling: str) -> ColumnElement[bool]:
    """That *spelling*, of fewer characters than the parts that SQLite's index knows, lies in ``about``.

    What few records have is told by the index all the same: it is asked for every part that begins so. What many have
    is looked for in the records in their order, of which a page of a list needs the first.
    """
    holding = _holding(search_text.c.about, spelling)
    if not _PLAIN.issuperset(spelling):
        return this.in_(holding.where(ODD))
    in_turn = holding.where(search_text.c.content_id == record.c.content_id).exists()
    if len(spelling) == 1 and len(list(connection.scalars(holding.where(_IS_FIRST)))) >= _OFTEN:
        return in_turn
    ways = [select(search_text.c.content_id).where(_ends_with(spelling)), holding.where(ODD)]
    parts = _parts_from(connection, spelling)
    if len(parts) > _MOST_PARTS:
        return in_turn
    if parts:
        ways.append(select(_matching("about", " OR ".join(map(_quoted, parts))).subquery()))
    found = [number for way in ways for number in connection.scalars(way.limit(_FEW))]
    return this.in_(_listed(found)) if len(found) < _FEW else in_turn


def _parts_from(connection: Connection, spelling: str) -> list[str]:
    """The parts of three characters that begin with *spelling*, whether they are anywhere or not."""
    if len(spelling) > 1:
        return [spelling + after for after in sorted(_PLAIN)]
    there = text("SELECT term FROM search_about_parts WHERE term >= :low AND term < :high LIMIT :most")
    return list(connection.scalars(there, {"low": spelling, "high": chr(ord(spelling) + 1), "most": _MOST_PARTS + 1}))


def _ends_with(spelling: str) -> ColumnElement[bool]:
    """That *spelling* lies in the last two characters, with which no part begins."""
    last = func.substr(search_text.c.about, literal_column("-2"))
    if len(spelling) > 1:
        return last == spelling
    return last.in_([before + spelling for before in sorted(_PLAIN)]) | last.between(spelling, spelling + "~")


def _listed(ids: Sequence[int]) -> Select[int]:
    numbers = func.json_each(json.dumps(ids)).table_valued("value")
    return select(numbers.c.value)


def _found_by_others(connection: Connection, spelling: str) -> Iterator[ColumnElement[bool]]:
    yield record.c.content_id.in_(_holding(search_text.c.about, spelling))
    words = _holding(search_text.c.words, spelling)
    tokens = _tokens(spelling)
    is_indexed = tokens and connection.dialect.name == "postgresql"
    yield record.c.content_id.in_(words.where(_may_be_among(tokens)) if is_indexed else words)


def _tokens(spelling: str) -> list[str]:
    """The Latin words that there must be for *spelling* to be there, the last of them but the beginning of one; none
    where no index can tell."""
    tokens = _TOKEN.findall(spelling) if spelling.isascii() else []
    if len(tokens) > 1 and spelling.startswith(tokens[0]) and not tokens[0][0].isalpha():
        del tokens[0]  # figures may be the end of a word; letters begin one, as they must where they stand alone
    return tokens


def _holding(column: ColumnElement[str], spelling: str) -> Select[int]:
    return select(search_text.c.content_id).where(column.contains(spelling, autoescape=True))


def _matching(name: str, expression: str) -> TextualSelect:
    """Rows that SQLite's full-text index of the column *name* brings up for *expression*."""
    table = f"search_{name}"
    statement = text(f"SELECT rowid AS content_id FROM {table} WHERE {table} MATCH :expression")  # noqa: S608 (names of ours)
    sought_for: BindParameter[str] = bindparam("expression", expression, unique=True)
    return statement.bindparams(sought_for).columns(search_text.c.content_id)


def _may_be_among(tokens: Sequence[str]) -> ColumnElement[bool]:
    """That *tokens* are among the words, the last as the beginning of one; or that there are too many words for
    PostgreSQL to say."""
    parts = [token[:_LONGEST_PART] for token in tokens]
    query = cast(" & ".join(parts) + ":*", TSQUERY)
    long = func.octet_length(search_text.c.words) >= literal_column("1048576")
    return func.modelhub_words(search_text.c.words).op("@@", is_comparison=True)(query) | long


def _quoted(spelling: str) -> str:
    return '"' + spelling.replace('"', '""') + '"'


def words_of(metadata: Mapping[str, str]) -> str:
    """The different words of *metadata*, one per line, as they are searched."""
    return distinct_words([part for pair in metadata.items() for part in pair], INDEXED)


def put_words(connection: Connection, content_id: int, metadata: Mapping[str, str]) -> None:
    """Make the words of *metadata* searchable, in place of those before."""
    connection.execute(delete(search_text).where(search_text.c.content_id == content_id))
    connection.execute(insert(search_text).values(content_id=content_id, about="", words=words_of(metadata)))


def about_of(texts: Iterable[str], triggers: Iterable[str]) -> str:
    """The different words of a record's own *texts* and of its *triggers*, one per line, as they are searched."""
    return distinct_words([*texts, *triggers], INDEXED)


_AT_ONCE = 300
"""Texts in one statement: SQLite's full-text indexes write out what they have gathered before each statement that fires
a trigger."""

IN_ORDER = (side_file.c.ended.is_not(None), side_file.c.dialect, side_file.c.id)
"""How the side files of one content are told: those that are beside it first."""

# Built once: a sync asks them of each content, and building costs more than asking.
_CONTENT: BindParameter[int] = bindparam("content")
_HOLDER = select(HOLDER).where(record.c.content_id == _CONTENT).scalar_subquery()
_TEXTS = (
    select(record.c.name).where(record.c.content_id == _CONTENT),
    select(record.c.notes).where(record.c.id == _HOLDER),
    select(record_tag.c.tag).where(record_tag.c.record_id == _HOLDER),
    select(location.c.path).where(location.c.content_id == _CONTENT, location.c.live_key.is_not(None)),
    select(download.c.address).where(download.c.content_id == _CONTENT),
)
_BESIDE = select(side_file.c.claims).where(side_file.c.content_id == _CONTENT).order_by(*IN_ORDER)
_REMOTE = select(remote_claim.c.claims).where(remote_claim.c.content_id == _CONTENT).order_by(remote_claim.c.id)
_PUT_TRIGGERS = update(record).where(record.c.content_id == _CONTENT).values(triggers=bindparam("found"))


def put_about(connection: Connection, contents: Iterable[tuple[int, Mapping[str, str]]]) -> None:
    """Make the names, notes, tags, live paths and trigger words of the records of *contents*, which have these
    metadata, searchable, and what is claimed of them beside their files; and let the records list the trigger words."""
    said: dict[int, tuple[str, tuple[str, ...]]] = {}
    length = 0
    for content_id, metadata in contents:
        said[content_id] = _said_of(connection, content_id, metadata)
        length += len(said[content_id][0])
        if len(said) == _AT_ONCE or length > INDEXED:
            _put_said(connection, said)
            said, length = {}, 0
    if said:
        _put_said(connection, said)


def _put_said(connection: Connection, said: Mapping[int, tuple[str, tuple[str, ...]]]) -> None:
    texts = {content_id: about for content_id, (about, _) in said.items()}
    found = case(texts, value=search_text.c.content_id)
    connection.execute(update(search_text).where(search_text.c.content_id.in_(texts)).values(about=found))
    rows = [{"content": content_id, "found": listed(triggers)} for content_id, (_, triggers) in said.items()]
    connection.execute(_PUT_TRIGGERS, rows)


def _said_of(connection: Connection, content_id: int, metadata: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """What is searched of a content beside the words of its *metadata*, and its trigger words."""
    this = {"content": content_id}
    texts = [str(part) for statement in _TEXTS for part in connection.scalars(statement, this)]
    said = [*connection.scalars(_BESIDE, this), *connection.scalars(_REMOTE, this)]
    triggers = trigger_words(metadata, [phrase for claims in said for phrase in claims.get("triggers", ())])
    return about_of([*texts, *(each for claims in said for each in _words_of(claims))], triggers), triggers


_CLAIMED = ("name", "version", "base_model", "kind", "creator", "licence", "notes", "description")
_CLAIMED_AT_MOST = 4000


def _words_of(claims: Mapping[str, Any]) -> Iterator[str]:
    """What is searched of somebody's claims: names and tags, and the beginning of what is told at length."""
    yield from claims.get("tags", ())
    for name in _CLAIMED:
        yield claims.get(name, "")[:_CLAIMED_AT_MOST]
