"""Batch files as editors and other systems save them."""

import codecs
import json
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from wanworks.cli.batches.batch_file import Line, read_batch

A = json.dumps({"model_id": "T2V-A14B", "prompt": "a boat", "name": "a"})
B = json.dumps({"model_id": "T2V-A14B", "prompt": "a kite", "name": "b"})


def read(folder: Path, content: str | bytes) -> list[Line]:
    path = folder / "batch.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_batch(path)


def refused(folder: Path, content: str | bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(folder, content)
    return str(caught.value)


def named(lines: list[Line]) -> list[tuple[int, str]]:
    return [(line.number, line.name) for line in lines]


@pytest.mark.parametrize(
    "content",
    [
        f"{A}\n{B}\n",
        f"{A}\n{B}",
        f"{A}\r\n{B}\r\n",
        f"{A}\r{B}\r",
        f"{A}\r{B}",
        f"{A}\r{B}\n",
        f"{A}\n{B}\n\n\r\n \n",
        f"{A}\n{B}\n\x00\x00\x00\x00",
        f"{A}\n{B}\n\x1a",
        f"{A}\n\x0c{B}\n",
        f"\x0c{A}\x0c\n{B}\x85\n",
        f"\u2028{A}\u2029\n\xa0{B}\u3000\n",
        f"\ufeff{A}\n\ufeff{B}\n",
        codecs.BOM_UTF8 + f"{A}\r\n{B}\r\n".encode(),
        codecs.BOM_UTF16_LE + f"{A}\r\n{B}\r\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + f"{A}\n{B}\n".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + f"{A}\n{B}\n".encode("utf-32-le"),
        f"{A}\r\n{B}\r\n".encode("utf-16-le"),
        f"\n{A}\r\n{B}\r\n".encode("utf-16-be").removeprefix(b"\x00\n"),
    ],
)
def test_lines_however_they_were_saved(tmp_path: Path, content: str | bytes) -> None:
    assert named(read(tmp_path, content)) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    "letter", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\t", "\xa0", "\ufeff"]
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_no_other_character_ends_a_line(tmp_path: Path, letter: str, ending: str) -> None:
    row = f'{{"model_id": "T2V-A14B", "prompt": "before{letter}after"}}'
    first, second = read(tmp_path, f"{row}{ending}{B}{ending}")
    assert (first.fields["prompt"], second.number) == (f"before{letter}after", 2)


def test_a_carriage_return_between_json_s_words_is_a_blank(tmp_path: Path) -> None:
    row = A.replace(", ", ",\r ")
    assert named(read(tmp_path, f"{row}\n{B}\n")) == [(1, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"{A}\n{B}\nnot json\n", "line 3: is not JSON: Expecting value at column 1"),
        (f"{A}\r{B}\rnot json\r", "line 3: is not JSON"),
        (f"{A}\r\n\r\n{{'model_id': 1}}\r\n", "line 3: is not JSON: Expecting property name"),
        (A.replace("a boat", "a\x00boat") + "\n", "line 1: prompt: text must not contain NUL"),
        (
            f'{A}\n{{"model_id":\x00"T2V-A14B"}}',
            "line 2: is not JSON: Expecting value at column 13, found U+0000",
        ),
        (f"{A}\n\u201c{B}\n", "line 2: is not JSON: Expecting value at column 1, found U+201C"),
        (f"{A}\n".encode() + b'{"prompt": "caf\xe9"}\n', "line 2: is not UTF-8 (0xe9 at byte"),
        (f"{A}\r".encode() * 3 + b"\xff\n", "line 4: is not UTF-8 (0xff at byte"),
        (codecs.BOM_UTF16_LE + A.encode("utf-16-le") + b"\n", "is not valid UTF-16, which its first bytes indicate"),
        ("\ufeff\n\r\n\x00", "has no lines"),
        (json.dumps({**json.loads(A), "image": "x" * 300}), "line 1: image: "),
        (json.dumps({**json.loads(A), "last_image": "none.png"}), "line 1: last_image: there is no file"),
        (json.dumps({**json.loads(A), "count": 2}), "line 1: count: is not possible in a batch"),
        (json.dumps({**json.loads(A), "image": "a\x00b"}), "line 1: image: there is no file"),
        ("[" * 100_000, "line 1: is JSON that cannot be read"),
        ('{"model_id": "T2V-A14B", "prompt": "x", "name": "\\ud800"}', "line 1: name: must be a file's name"),
    ],
)
def test_unreadable_lines_are_reported_with_their_number(tmp_path: Path, content: str | bytes, told: str) -> None:
    assert told in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A", "a"),
        ("Boot", "bOOT"),
        ("Stra\xdfe", "STRASSE"),
        ("caf\xe9", "cafe\u0301"),
        ("\u212b", "\xe5"),
        ("\xc9", "e\u0301"),
    ],
)
def test_names_that_are_one_file_on_some_disks_are_refused(tmp_path: Path, one: str, other: str) -> None:
    rows = [json.dumps({**json.loads(A), "name": name}) for name in (one, other)]
    told = refused(tmp_path, "\n".join(rows))
    assert (
        f"line 2: name: {other!r} is the same file as {one!r} on many disks, which is already the name of line 1"
        in told
    )


def test_every_line_after_a_doubled_name_is_still_read(tmp_path: Path) -> None:
    told = refused(tmp_path, f"{A}\n{A}\n{B}\nnot json\n")
    assert "line 2: name: 'a' is already the name of line 1" in told
    assert "line 4: is not JSON" in told


def test_names_that_differ_are_taken(tmp_path: Path) -> None:
    rows = [json.dumps({**json.loads(A), "name": name}) for name in ("a", "b", "\xe4", "\u0131", "CON", "a.b")]
    assert len(read(tmp_path, "\n".join(rows))) == 6


def test_both_pictures_are_files_beside_it(tmp_path: Path) -> None:
    for name in ("first.png", "last.png"):
        (tmp_path / name).write_bytes(name.encode())
    row = {**json.loads(A), "image": "first.png", "last_image": "last.png"}
    (line,) = read(tmp_path, json.dumps(row))
    assert line.pictures == {"image": tmp_path / "first.png", "last_image": tmp_path / "last.png"}
    assert not line.fields.keys() & {"image", "last_image", "name"}
    (tmp_path / "last.png").write_bytes(b"another")
    assert read(tmp_path, json.dumps(row))[0].key != line.key, "the pictures' bytes are part of the line"
