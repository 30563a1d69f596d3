"""What a file is: by its extension where that tells, else by its first bytes."""

import io
import os
from collections.abc import Mapping, Sequence

HEAD = 512  # bytes that are enough to tell
PROBED = 64  # files of an unknown extension that are opened before the rest is believed to be the same

EXTENSIONS = {
    "image": {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".dib"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".ico", ".tga"),
    },
    "audio": {
        *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd"),
        *(".caf", ".w64", ".rf64", ".voc", ".sph"),
    },
    "series": {".npy", ".csv", ".tsv"},
}
"""Files of a row's cell, by what the decoders (Pillow, libsndfile, numpy) read."""
KNOWN = {extension: kind for kind, extensions in EXTENSIONS.items() for extension in extensions}
WORDS = {
    *(".txt", ".json", ".jsonl", ".ndjson", ".xml", ".md", ".rst", ".html", ".htm", ".yaml", ".yml", ".toml", ".log"),
    *(".py", ".ipynb", ".sh", ".m", ".css", ".js", ".tex", ".bib", ".cfg", ".ini", ".names", ".srt", ".lab"),
    *(".parquet", ".arrow", ".ts", ".arff", ".tar", ".gz", ".zip"),
}
"""Extensions of what is no image or sound: not opened to see."""

JPEG, WAV, CSV = "convert it to JPEG or PNG", "convert it to WAV or FLAC", "save it as CSV or Parquet"
MPEG4, VIDEO = f"AAC in MP4 (m4a) is not read: {WAV}", "video is not read: take its frames as images, its sound as WAV"
UNREAD = {
    **dict.fromkeys((".heic", ".heif", ".hif"), f"HEIC is not read: {JPEG}"),
    **dict.fromkeys((".svg", ".svgz"), "SVG is a drawing, not pixels: convert it to PNG"),
    **dict.fromkeys((".m4a", ".mp4a", ".aac", ".m4b"), MPEG4),
    **dict.fromkeys((".wma", ".amr", ".ra", ".webm", ".weba", ".ape", ".ac3"), f"this sound format is not read: {WAV}"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv"), VIDEO),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf"), f"raw camera files are not read: {JPEG}"),
    **dict.fromkeys((".dcm", ".nii", ".psd", ".exr", ".hdr", ".jxl"), f"this image format is not read: {JPEG}"),
    **dict.fromkeys((".eps", ".ps", ".pdf", ".ai"), "a page, not pixels: convert it to PNG"),
    **dict.fromkeys(
        (".npz", ".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".tfrecord"), f"not read: {CSV}, or .npy"
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), f"a spreadsheet: {CSV}"),
    **dict.fromkeys((".zip", ".rar", ".7z"), "an archive: unpack it first"),
    ".mid": "MIDI holds notes, not sound: render it to WAV",
    ".midi": "MIDI holds notes, not sound: render it to WAV",
}
"""Files that people have and nothing here decodes, with what to do."""

IMAGE_HEADS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  \r\n\x87\n"),
    b"\xff\x4f\xff\x51",
)
AUDIO_HEADS = (b"fLaC", b"OggS", b"ID3", b".snd", b"caff", b"RF64", b"riff.\x91\xcf\x11", b"Creative Voice", b"NIST_1A")
FTYP = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), UNREAD[".heic"]),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P "), MPEG4),
}


def kind_of_file(path: str) -> str | None:
    """Image, audio or series by a file's extension, or a URL's; None where it has none of theirs."""
    path = path.partition("?")[0] if "://" in path else path
    return KNOWN.get(os.path.splitext(path)[1].lower())


def why_unread(path: str) -> str | None:
    """Why a file of this extension is not read, and what to do; None for one that is, or that nobody knows."""
    return UNREAD.get(os.path.splitext(path)[1].lower())


def kind_of_bytes(content: bytes) -> str | None:
    """Image, audio or series (.npy) by leading bytes; None for anything else."""
    if content[:4] == b"RIFF":
        return {b"WAVE": "audio", b"WEBP": "image"}.get(content[8:12])
    if content[:4] == b"FORM":
        return "audio" if content[8:12] in (b"AIFF", b"AIFC") else None
    if content[4:8] == b"ftyp":
        return "image" if content[8:12] in (b"avif", b"avis") or b"avif" in content[16:40] else None
    if content.startswith(IMAGE_HEADS) or (content[:2] == b"BM" and content[6:10] == b"\0\0\0\0"):
        return "image"
    if content[:1] == b"P" and content[1:2] in b"123456" and content[2:3] in (b"\n", b" ", b"\r", b"\t"):
        return "image"
    if content.startswith(AUDIO_HEADS) or _mpeg_frame(content):
        return "audio"
    return "series" if content.startswith(b"\x93NUMPY") else None


def why_unread_bytes(content: bytes) -> str | None:
    """Why what begins so is not read, and what to do; None where there is nothing to say."""
    if content[4:8] == b"ftyp" and kind_of_bytes(content) is None:
        return FTYP.get(content[8:12], VIDEO)
    head = content[:HEAD].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if head.startswith(b"<svg") or (head.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in head):
        return UNREAD[".svg"]
    if len(content) > 1 and content[0] == 0xFF and content[1] & 0xF6 == 0xF0:  # ADTS: layer 0
        return f"AAC is not read: {WAV}"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page, not the file: the download went wrong"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file: `git lfs pull` fetches it"
    if content.startswith(b"%PDF") or content.startswith(b"%!PS"):
        return UNREAD[".pdf"]
    return UNREAD[".zip"] if content.startswith(b"PK\x03\x04") else None


def _mpeg_frame(content: bytes) -> bool:
    """Whether an MPEG audio frame begins here: sync, layer II or III, bit rate and sampling rate that exist."""
    if len(content) < 3 or content[0] != 0xFF or content[1] & 0xE0 != 0xE0:
        return False
    version, layer = content[1] >> 3 & 3, content[1] >> 1 & 3
    return version != 1 and layer in (1, 2) and content[2] >> 4 not in (0, 15) and content[2] >> 2 & 3 != 3


def head_of(path: str) -> bytes:
    """The first bytes of a file; none where it cannot be opened or is none: opening a pipe could wait for ever."""
    try:
        if not os.path.isfile(path):
            return b""
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def is_picture(path: str) -> bool:
    """Whether a `.npy` file holds an array of three dimensions, which no series has, by its header alone."""
    from numpy.lib import format

    if not path.lower().endswith(".npy"):
        return False
    head = io.BytesIO(head_of(path))
    try:
        read = format.read_array_header_1_0 if format.read_magic(head) == (1, 0) else format.read_array_header_2_0  # type: ignore[no-untyped-call]
        return len(read(head)[0]) == 3  # type: ignore[no-untyped-call]
    except Exception:  # numpy parses the header as Python would, with as many kinds of error; who reads it says so
        return False


def looked_at(path: str) -> tuple[str | None, str | None]:
    """What a file is by its first bytes, image, audio or series; or why it is not read, where that is known."""
    head = head_of(path)
    kind = "image" if is_picture(path) else kind_of_bytes(head)
    return kind, None if kind is not None else why_unread(path) or why_unread_bytes(head)


def kinds_of(root: str, paths: Sequence[str]) -> dict[str, str]:
    """Image, audio or series of those files below `root` that are one. Only files whose extension does not tell are
    opened, of more than 64 with one extension first as many, evenly spread: where these are alike, so is the rest."""
    found: dict[str, str] = {}
    unknown: dict[str, list[str]] = {}
    for path in paths:
        extension = os.path.splitext(path)[1].lower()
        if extension in KNOWN:
            found[path] = KNOWN[extension]
        elif extension not in WORDS and extension not in UNREAD:
            unknown.setdefault(extension, []).append(path)
    for alike in unknown.values():
        sample = alike[:: max(1, len(alike) // PROBED)]
        seen = {path: kind_of_bytes(head_of(os.path.join(root, path))) for path in sample}
        kinds = set(seen.values())
        if len(kinds) > 1:
            rest = {path: kind_of_bytes(head_of(os.path.join(root, path))) for path in alike if path not in seen}
            found |= {path: kind for path, kind in (seen | rest).items() if kind is not None}
        elif kind := kinds.pop():
            found |= dict.fromkeys(alike, kind)
    return found


def left_out_reason(root: str, path: str) -> str:
    """In words why a file below `root` is no cell: what it is, and what to do where something can be done."""
    extension = os.path.splitext(path)[1].lower()
    if (reason := UNREAD.get(extension)) is not None:
        return f"{extension}: {reason}"
    if extension not in WORDS and (reason := why_unread_bytes(head_of(os.path.join(root, path)))) is not None:
        return f"{extension or 'no extension'}: {reason}"
    return f"{extension} files" if extension else "files without an extension"


def counted(root: str, paths: Sequence[str]) -> Mapping[str, list[str]]:
    """Files by the reason why they are left out; of more than 64 with one extension the first speaks for all."""
    by_extension: dict[str, list[str]] = {}
    for path in paths:
        by_extension.setdefault(os.path.splitext(path)[1].lower(), []).append(path)
    reasons: dict[str, list[str]] = {}
    for alike in by_extension.values():
        said = left_out_reason(root, alike[0]) if len(alike) > PROBED else None
        for path in alike:
            reasons.setdefault(said or left_out_reason(root, path), []).append(path)
    return reasons
