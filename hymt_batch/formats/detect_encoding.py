"""Refuse a file whose head is not in the encoding by which it would be read, and name the setting that reads it.

The head is the first 64 KiB, decompressed. A file is refused for what its head shows as a whole: a byte order mark, the
NUL bytes of UTF-16 and UTF-32, the escape sequences of the 7-bit encodings, or lines that mostly cannot be decoded. A
file with a few such lines is read, and they become error rows; so is a damaged file that starts with the mark of UTF-8,
since that is its encoding whatever its lines hold.
"""

from __future__ import annotations

import codecs
import re
import shlex
import unicodedata

from hymt_batch.errors import ConfigError
from hymt_batch.formats.text_encoding import (
    HEAD_BYTES,
    MARKS,
    MAX_ODD_SHARE,
    UTF8,
    find_mark,
    is_text,
    is_utf8,
    normalize,
    share_of_odd,
    unmarked_units,
    with_byte_order,
)
from hymt_batch.records import Input

_ESCAPES = re.compile(rb"\x1b(?:\$[@AB]|\$\([@ABCDOPQ]|\$\)[ACG]|\([IJ]|\.[AF]|[NO])")
_ISO_2022 = ("iso2022_jp", "iso2022_jp_2", "iso2022_jp_2004", "iso2022_jp_3", "iso2022_jp_ext", "iso2022_kr")
_HZ = re.compile(rb"~\{(?:[\x21-\x77][\x21-\x7e])+~\}")
_UTF_7 = re.compile(rb"\+[A-Za-z0-9/+]{3,}-?")

_COMMON = (
    *("cp1252", "cp1250", "iso8859-2", "cp1254", "cp1257", "cp1251", "koi8-r", "cp866", "cp1253", "cp1255"),
    *("cp1256", "cp874", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
)
_USUAL_NAMES = {"euc_jis_2004": "euc_jp", "euc_jisx0213": "euc_jp", "shift_jis": "cp932", "shift_jis_2004": "cp932"}
_USUAL_NAMES |= {"shift_jisx0213": "cp932", "cp1125": "cp866", "big5hkscs": "big5", "cp950": "big5"}
_LATIN = ("cp1252", "cp1250", "iso8859-2", "cp1254", "cp1257")
_ICELANDIC = frozenset("ðþÐÞ")  # in texts of the supported languages, these are letters of another encoding
_TYPOGRAPHIC = frozenset("\xa0«»“”„‚‘’–—…")
MIN_BAD_LINES = 3
MANY_BAD_LINES = 20
MIN_UTF8_BYTES = 16  # other than ASCII


def check_encoding(input: Input, head: bytes, *, is_utf8_only: bool) -> None:
    """Reject a file whose head is not in `input.encoding`.

    Args:
        input: The file.
        head: Its first HEAD_BYTES bytes, decompressed, but not transcoded.
        is_utf8_only: False for a format with a rule of its own for bytes that are not UTF-8.

    Raises:
        ConfigError: The head is in another encoding; the fix names it.
    """
    encoding = input.encoding or UTF8
    _check_units(input, encoding, head)
    if encoding == UTF8:
        if found := seven_bit_encoding(head):
            raise _wrong_encoding(input, _describe(found), found)
        if not is_utf8_only or head.startswith(codecs.BOM_UTF8):
            return
    elif (
        is_utf8(head) and sum(byte > 0x7F for byte in head) >= MIN_UTF8_BYTES
    ):  # bytes of another text are not, by chance
        raise _wrong_encoding(input, "UTF-8", UTF8)
    lines = _lines(head.removeprefix(MARKS.get(encoding, b"")), encoding)
    if not _is_mostly_bad(lines):
        return
    raise _wrong_encoding(input, f"mostly not {_describe(encoding)}", *_guess(head))


def _check_units(input: Input, encoding: str, head: bytes) -> None:
    """Reject a file by its byte order mark or its NUL bytes."""
    mark = find_mark(head)
    found = mark or unmarked_units(head)
    is_of_bytes = encoding != UTF8 and encoding not in MARKS and encoding not in ("utf-16", "utf-32")
    if not mark and is_of_bytes and head.count(0) * 100 < len(head):
        return  # a few NUL bytes show nothing against the encoding that the user names
    if found and found != with_byte_order(encoding, head):
        how = "by its byte order mark" if mark else "by its NUL bytes"
        raise _wrong_encoding(input, f"{_describe(found)}, {how}", found)
    if found or not encoding.startswith(("utf-16", "utf-32")) or b"\0" in head or len(head) < 2:
        return
    # a line feed has a NUL byte; the byte 0x0A alone is also one of U+4E0A
    is_odd = share_of_odd(head.decode(with_byte_order(encoding, head), "replace")) >= MAX_ODD_SHARE
    if is_text(head) or (b"\n" in head and is_odd):
        raise _wrong_encoding(input, f"not {_describe(encoding)}: it has no NUL bytes", *_guess(head))


def _wrong_encoding(input: Input, what: str, *found: str) -> ConfigError:
    """Return the error for a file in another encoding than the expected one.

    Args:
        input: The file.
        what: What the file is.
        found: The encodings it may have, the most probable first; empty if none is known.
    """
    if input.encoding:
        expected = f"but it is read with source.encoding={input.encoding}, as all files of the job"
    else:
        expected = "but input must be UTF-8 unless source.encoding names its encoding"
    if found and not _is_known(found[0]):
        fix = f"Convert it: {_convert_command(input, found[0])}."
    elif not found:
        fix = f"Set source.encoding to its encoding, such as one of {', '.join(_COMMON)}."
    else:
        fix = f"Set source.encoding={found[0]}"
        fix += f" (or, if the text is wrong then, {', '.join(found[1:])})" if found[1:] else ""
        fix += "." if found[0] == UTF8 else f", or convert the file: {_convert_command(input, found[0])}."
    return ConfigError(f"{input.path} is {what}, {expected}", fix=fix)


def _is_known(encoding: str) -> bool:
    try:
        normalize(encoding)
    except LookupError:
        return False
    return True


def _describe(encoding: str) -> str:
    """Return an encoding's name as it is usually written, for messages and for iconv."""
    if encoding.startswith("iso2022"):
        return encoding.replace("iso2022", "iso-2022").replace("_", "-").upper()
    return re.sub(r"^UTF-(16|32)-", r"UTF-\1", encoding.upper()) if encoding.startswith("utf") else encoding


def _convert_command(input: Input, encoding: str) -> str:
    """Return the command that writes a UTF-8 copy of a file; the copy keeps the file's extension."""
    folder, slash, name = input.path.rpartition("/")
    stem, dot, extensions = name.partition(".")
    tool = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}.get(input.compression, "")
    if tool:
        extensions = extensions.rpartition(".")[0]
        dot = "." if extensions else ""
    copy = shlex.quote(f"{folder}{slash}{stem}.utf8{dot}{extensions}")
    codec, path = _describe(encoding).upper().replace("_", "-"), shlex.quote(input.path)
    if tool:
        return f"{tool} -dc {path} | iconv -f {codec} -t UTF-8 > {copy}"
    return f"iconv -f {codec} -t UTF-8 {path} > {copy}"


def seven_bit_encoding(head: bytes) -> str:
    """Return the 7-bit encoding of a head by its escape sequences; "" for none.

    ISO-2022-CN, which Python does not know, is returned under this name.
    """
    if not head.isascii():
        return ""
    if match := _ESCAPES.search(head):
        if match[0].startswith((b"\x1b$)A", b"\x1b$)G")):
            return "ISO-2022-CN"
        if match[0] == b"\x1b$)C":
            return "iso2022_kr"
        return next((name for name in _ISO_2022 if _decodes(head, name)), "")
    lines = [line for line in _whole_lines(head) if line.strip()]
    for encoding, pattern in (("hz", _HZ), ("utf-7", _UTF_7)):
        shifted = [line for line in lines if pattern.search(line)]
        if len(shifted) * 2 > len(lines) and all(_holds_words(line, encoding) for line in shifted):
            return encoding
    return ""


def _decodes(head: bytes, encoding: str) -> bool:
    """Return whether all lines but few can be decoded, each on its own but for the designation in the first."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    lines = [decoder.decode(line + b"\n") for line in _whole_lines(head)]
    return sum("\ufffd" in line for line in lines) * 10 <= len(lines)


def _holds_words(line: bytes, encoding: str) -> bool:
    """Return whether a line decodes to text with letters beyond ASCII, and to nothing unassigned."""
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError:
        return False
    added = [character for character in text if character > "\x7f"]
    kinds = {unicodedata.category(character)[0] for character in added}
    return "L" in kinds and not kinds & {"C"}


def _whole_lines(head: bytes) -> list[bytes]:
    """Split a head into lines, without the last one where the head may have cut it."""
    lines = head.split(b"\n")
    return lines if len(head) < HEAD_BYTES or len(lines) == 1 else lines[:-1]


def _lines(head: bytes, encoding: str) -> list[tuple[bool, bool]]:
    """Return for each line that is not blank whether it can be decoded, and whether it has more than ASCII."""
    if encoding == UTF8:
        lines = [line for line in _whole_lines(head) if line.strip()]
        return [(_can_decode(line, UTF8), not line.isascii()) for line in lines]
    text = codecs.getincrementaldecoder(with_byte_order(encoding, head))("replace").decode(head)
    texts = [line for line in text.split("\n") if line.strip()]
    return [("\ufffd" not in line, not line.isascii()) for line in texts]


def _is_mostly_bad(lines: list[tuple[bool, bool]]) -> bool:
    """Return whether lines show another encoding: more than half of them, or many and hardly one line beyond ASCII."""
    num_bad = sum(not is_good for is_good, _ in lines)
    num_good_beyond_ascii = sum(is_good and beyond_ascii for is_good, beyond_ascii in lines)
    is_most = num_bad >= MIN_BAD_LINES and num_bad * 2 > len(lines)
    is_many = num_bad >= MANY_BAD_LINES and num_bad * 10 > len(lines) and num_good_beyond_ascii * 10 < num_bad
    return is_most or is_many


def _guess(head: bytes) -> list[str]:
    """Return the encodings that a head may have, the most probable first; [] if none is probable."""
    if is_utf8(head):
        return [UTF8]
    import charset_normalizer

    lines = [line for line in _whole_lines(head) if not line.isascii()]
    sample = b"\n".join(lines)
    best = charset_normalizer.from_bytes(sample).best()
    possible = [name for name in _COMMON if _can_decode(sample, name)]
    guess = "" if best is None else normalize(best.encoding)
    usual = _USUAL_NAMES.get(guess, guess)
    guess = usual if usual in possible else guess
    if guess in _LATIN and (latin := [name for name in _LATIN if name in possible]):
        guess = min(latin, key=lambda name: _num_odd_characters(sample.decode(name)))
    return list(dict.fromkeys([*filter(None, [guess]), *possible]))[:4]


def _can_decode(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _num_odd_characters(text: str) -> int:
    """Count the characters beside letters that texts of a Latin script do not have there: many in a wrong encoding."""
    num_odd = 0
    for before, character, after in zip(" " + text[:-1], text, text[1:] + " ", strict=True):
        if character > "\x7f" and (before.isalpha() or after.isalpha()):
            is_odd = character in _ICELANDIC or not (character.isalpha() or character in _TYPOGRAPHIC)
            num_odd += is_odd
    return num_odd
