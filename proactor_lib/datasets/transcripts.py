"""Transcripts of calls: subtitles (WebVTT, SRT), Whisper's JSON, vCon's, and tables (CSV).

What one speaker says without a break is one turn. Where nobody is named, each segment is a turn of `speaker`.
"""

import csv
import html
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from proactor_lib.datasets.conversations import Conversation, Notes, Spoken, day, seconds
from proactor_lib.datasets.raw import documents, reason
from proactor_lib.errors import UserError
from proactor_lib.files import parse_json, read_text, stem

NOBODY = "speaker"  # who speaks where nothing says it
COLUMNS = {
    "dialogue": False,
    "speaker": True,
    "text": True,
    "start": False,
    "end": False,
}  # of a table; whether it must have it
_TIMING = re.compile(r"((?:\d+:)?\d{1,2}:\d\d[.,]\d{1,3})[ \t]*-->[ \t]*((?:\d+:)?\d{1,2}:\d\d[.,]\d{1,3})?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?[ \t]+([^>]+)>")
_NAMED = re.compile(r"([^\W\d_][\w .'-]{0,29}):\s+(.+)", re.DOTALL)
_NO_CUE = ("WEBVTT", "NOTE", "STYLE", "REGION")


@dataclass(frozen=True)
class Segment:
    """A piece of a transcript; `speaker` None where nothing says it, `start` and `end` as in `Spoken`, `day` that of a
    time stamp of the calendar."""

    text: str
    speaker: str | None = None
    start: float | None = None
    end: float | None = None
    day: date | None = None


@dataclass(frozen=True)
class Options:
    """What a user says of a source: names of columns (keys of `COLUMNS`), and other names for speakers."""

    columns: dict[str, str] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)


def read(path: Path, source: str, options: Options, notes: Notes) -> Iterator[Conversation]:
    """The file's conversations; `source` is a key of `SOURCES`. UserError names the file and what is wrong."""
    try:
        for id, segments in SOURCES[source](path, options, notes):
            first = next((s.day for s in segments if s.day), None)
            yield Conversation(id, _turns(segments, id, options.speakers, notes), date=first)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not what --from {source} reads: {reason(error)}") from None


def _turns(segments: list[Segment], id: str, speakers: dict[str, str], notes: Notes) -> tuple[Spoken, ...]:
    """Segments in the order of their time, those of one named speaker that follow each other as one turn."""
    ordered = segments
    if all(s.start is not None for s in segments):
        ordered = sorted(segments, key=lambda s: s.start)
        if ordered != segments:
            notes.guessed.add("segments were not in the order of their time stamps: they are now", id)
    turns: list[Spoken] = []
    before = None
    for segment in ordered:
        text = " ".join(segment.text.split())
        if not text:
            continue
        if segment.speaker is None:
            notes.guessed.add(f"nothing says who speaks: each segment is a turn of {NOBODY!r}", id)
        if segment.speaker is not None and segment.speaker == before:
            turns[-1] = replace(turns[-1], text=f"{turns[-1].text} {text}", end=segment.end)
        else:
            name = segment.speaker or NOBODY
            turns.append(Spoken(speakers.get(name, name), text, segment.start, segment.end))
        before = segment.speaker
    return tuple(turns)


def _subtitles(path: Path, options: Options, notes: Notes) -> Iterator[tuple[str, list[Segment]]]:
    """WebVTT and SRT alike: blocks with a line of times, the text below it, voices as `<v Name>` or `Name: ...`."""
    id = stem(path)
    segments: list[Segment] = []
    for block in re.split(r"\n[ \t]*\n", read_text(path)):
        lines = [line.strip() for line in block.strip().split("\n")]
        cues = list(_cues(lines))
        for times, text in cues:
            segments += _voices(text, *map(seconds, times.groups()))
        if not cues and block.strip() and not block.strip().startswith(_NO_CUE):
            notes.left_out.add("text without a time", f"{id}: {lines[0][:40]!r}")
    if not segments:
        raise ValueError("no cue (a line like 00:01.000 --> 00:02.500, and text below it)")
    yield id, _named(segments, id, notes)


def _cues(lines: list[str]) -> Iterator[tuple[re.Match, str]]:
    """The times and the text of each cue of a block: several where no blank line is between them.

    A number before its times is a cue's own, and not said in the one before, where the first one has a number too.
    """
    starts = [i for i, line in enumerate(lines) if _TIMING.match(line)]
    numbered = bool(starts) and starts[0] > 0 and lines[starts[0] - 1].isdigit()
    for i, end in pairwise([*starts, len(lines)]):
        text = lines[i + 1 : end]
        if numbered and end < len(lines) and text and text[-1].isdigit():
            text.pop()
        yield _TIMING.match(lines[i]), " ".join(text)


def _voices(text: str, start: float, end: float) -> Iterator[Segment]:
    before, *voices = _VOICE.split(text)
    pairs = [(None, before), *zip(voices[::2], voices[1::2], strict=True)]
    for speaker, part in pairs:
        plain = html.unescape(re.sub(r"<[^>]*>", "", part)).strip()
        if plain:
            yield Segment(plain, speaker and html.unescape(speaker).strip(), start, end)


def _named(segments: list[Segment], id: str, notes: Notes) -> list[Segment]:
    """With speakers from `Name: ...`, where no cue has a voice and half of them begin so; others go on as before."""
    found = [_NAMED.fullmatch(s.text) for s in segments]
    if any(s.speaker for s in segments) or 2 * sum(map(bool, found)) < len(segments):
        return segments
    notes.guessed.add("what stands before a colon is the speaker", id)
    speaker, named = None, []
    for segment, match in zip(segments, found, strict=True):
        speaker = match[1] if match else speaker
        named.append(replace(segment, text=match[2] if match else segment.text, speaker=speaker))
    return named


def _whisper(path: Path, options: Options, notes: Notes) -> Iterator[tuple[str, list[Segment]]]:
    values = list(documents(path))
    for number, (place, value) in enumerate(values, start=1):
        try:
            yield stem(path) if len(values) == 1 else f"{stem(path)}-{number}", _segments(value)
        except ValueError as error:
            raise UserError(f"{place} is not Whisper's JSON: {error}") from None


def _segments(value: Any) -> list[Segment]:
    """Of Whisper and what is built on it (`segments`), of whisper.cpp (`transcription`, in milliseconds), `utterances`
    (of AssemblyAI, which tells `audio_duration` beside them, in milliseconds), or a list."""
    known = [k for k in ("segments", "transcription", "utterances") if isinstance(value, dict) and k in value]
    listed = value[known[0]] if known else value
    if not isinstance(listed, list):
        keys = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"no list 'segments', 'transcription' or 'utterances'; it has: {keys}")
    if known == ["utterances"] and "audio_duration" in value:
        listed = [s | {"offsets": {"from": s.get("start"), "to": s.get("end")}, "start": None} for s in listed]
    return [
        Segment(
            s.get("text") or s.get("transcript") or "",
            None if s.get("speaker") in (None, "") else str(s["speaker"]),
            *_times(s),
            day(s.get("start")),
        )
        for s in listed
    ]


def _times(segment: dict) -> Iterator[float | None]:
    """Its start and its end; `offsets` are in milliseconds."""
    if "offsets" in segment:
        return (t if t is None else t / 1000 for t in map(segment["offsets"].get, ("from", "to")))
    return (seconds(segment.get(name)) for name in ("start", "end"))


def _vcon(path: Path, options: Options, notes: Notes) -> Iterator[tuple[str, list[Segment]]]:
    for number, (place, value) in enumerate(documents(path), start=1):
        if not isinstance(value, dict) or "dialog" not in value:
            kind = "signed or encrypted" if isinstance(value, dict) and {"payload", "ciphertext"} & {*value} else "no"
            raise UserError(f"{place} is {kind} vCon: an object with 'parties' and 'dialog' is read")
        id = str(value.get("uuid") or f"{stem(path)}-{number}")
        names = [_party(party, i) for i, party in enumerate(value.get("parties") or ())]
        yield (
            id,
            [s for i, d in enumerate(value["dialog"]) for s in _dialog(d, _transcripts(value, i), names, id, notes)],
        )


def _party(party: dict, number: int) -> str:
    return next((str(party[k]) for k in ("role", "name", "tel", "mailto") if party.get(k)), f"party {number}")


def _transcripts(value: dict, dialog: int) -> list[Any]:
    """The bodies of a dialog's transcripts among vCon's analyses."""
    found = []
    for a in value.get("analysis") or ():
        of = a.get("dialog")
        if a.get("type") == "transcript" and dialog in (of if isinstance(of, list) else [of]):
            body = a.get("body")
            found.append(parse_json(body, "a transcript") if a.get("encoding") == "json" and _is_text(body) else body)
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _dialog(dialog: dict, transcripts: list, names: list[str], id: str, notes: Notes) -> Iterator[Segment]:
    """A text as a segment, a recording as those of its first transcript that has any."""
    start = seconds(dialog.get("start"))
    if dialog.get("type") == "text" and _is_text(dialog.get("body")):
        parties = dialog.get("parties")
        who = dialog.get("originator", parties[0] if isinstance(parties, list) and parties else parties)
        name = names[who] if isinstance(who, int) else None
        yield Segment(dialog["body"], name, start, day=day(dialog.get("start")))
        return
    usable = [t for t in transcripts if isinstance(t, list) or (isinstance(t, dict) and "segments" in t)]
    if not usable:
        notes.left_out.add(f"a dialog of the type {dialog.get('type')!r} without a transcript in segments", id)
        return
    for s in _segments(usable[0]):
        name = names[int(s.speaker)] if s.speaker and s.speaker.isdigit() and int(s.speaker) < len(names) else s.speaker
        times = (t if start is None or t is None else start + t for t in (s.start, s.end))
        yield Segment(s.text, name, *times, day=day(dialog.get("start")))


def _table(path: Path, options: Options, notes: Notes) -> Iterator[tuple[str, list[Segment]]]:
    """A row per segment; rows of one dialogue need not stand together."""
    rows = table(path)
    names = {key: options.columns.get(key, key) for key in COLUMNS}
    if not rows:
        raise ValueError("no row below its header")
    there = list(rows[0])
    for key, name in names.items():
        if name not in there and (COLUMNS[key] or key in options.columns):
            raise ValueError(
                f"no column {name!r}; it has: {', '.join(there) or 'none'}; --column {key}=NAME names another"
            )
    if names["dialogue"] not in there:
        notes.guessed.add(f"no column {names['dialogue']!r}: the file is one dialogue", path.name)
    by_dialogue: dict[str, list[Segment]] = {}
    for row in rows:
        id = row.get(names["dialogue"]) or stem(path)
        times = (seconds(row.get(names[key])) for key in ("start", "end"))
        segment = Segment(row[names["text"]], row[names["speaker"]] or None, *times, day(row.get(names["start"])))
        by_dialogue.setdefault(id, []).append(segment)
    yield from by_dialogue.items()


def table(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows by column, separated by what its first line has most of: comma, semicolon or tab.

    UserError where a row has more cells than the header, or fewer, and where a quote is not closed.
    """
    text = read_text(path)
    first_line = text.partition("\n")[0]
    rows = _rows(path, text, max(",;\t", key=first_line.count))
    _, header = next(rows, (1, []))
    names, cells = [name.strip() for name in header], []
    for line, row in rows:
        if len(row) != len(names):
            raise UserError(f"{path}, line {line}: not as many cells as the header has columns")
        cells.append(dict(zip(names, (cell.strip() for cell in row), strict=True)))
    return cells


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {line}: {error}; a quote that opens a cell must close it") from None
        if row is None:
            return
        if row:
            yield line, row


SOURCES: dict[str, Callable[[Path, Options, Notes], Iterator[tuple[str, list[Segment]]]]] = {
    "vtt": _subtitles,
    "srt": _subtitles,
    "whisper": _whisper,
    "csv": _table,
    "vcon": _vcon,
}
