"""The ten digits in five senses, made from public standards and scikit-learn's scans, with no download.

Every generator draws one example per given digit, from the `numpy.random.Generator` it is handed.
"""

import io
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


Tables = dict[str, "pa.Table"]
"""Tables by split."""
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WORDS = {
    "en": "zero one two three four five six seven eight nine",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
    "it": "zero uno due tre quattro cinque sei sette otto nove",
    "pt": "zero um dois três quatro cinco seis sete oito nove",
    "nl": "nul een twee drie vier vijf zes zeven acht negen",
}
ENGLISH = np.array(WORDS["en"].split())
SEGMENTS = tuple(f"seg_{letter}" for letter in "abcdefg")
LIT = np.array([list(map(int, row)) for row in (
    ["1111110", "0110000", "1101101", "1111001", "0110011", "1011011", "1011111", "1110000", "1111111", "1111011"]
)])  # fmt: skip
SEGMENT_NOISE = 0.25  # gives a Bayes rate of 0.95
SEGMENT_MISSING = 0.02
RATE = 8000
TONE_SAMPLES = RATE // 4
LOW, HIGH = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)  # Hz, ITU-T Q.23
SOURCES = {"train": 1297, "val": 140, "test": 360}  # scans of scikit-learn's 1797 in each split


def words(digits: Ints, rng: np.random.Generator) -> list[str]:
    """The number word `[N]`: English half the time, else any of the seven languages alike."""
    lexicon = np.array([line.split() for line in WORDS.values()])
    language = np.where(rng.random(len(digits)) < 0.5, 0, rng.integers(len(lexicon), size=len(digits)))
    return [str(word) for word in lexicon[language, digits]]


def turned(scan: bytes, angle: float) -> bytes:
    """A scan enlarged to 16 pixels and turned counter-clockwise by `angle` degrees, as a PNG file."""
    from PIL import Image

    image = Image.open(io.BytesIO(scan)).resize((16, 16), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.rotate(angle, Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


@lru_cache(maxsize=1)
def scans() -> dict[str, tuple[list[bytes], Ints]]:
    """Handwritten digits per split: 8x8 8-bit gray PNG files and their digits `[N]`.

    Each of scikit-learn's 1797 scans stands in one split, stratified by digit with a fixed seed.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    source = load_digits()
    pixels = np.round(source.images * (255 / 16)).astype(np.uint8)
    place = np.random.default_rng(0).permutation(len(pixels))
    # Sorted by digit, then dealt out at even steps: every split gets its share of each digit.
    place = place[np.argsort(source.target[place], kind="stable")]
    dealt = np.argsort((np.arange(len(place)) * 0.6180339887498949) % 1, kind="stable")
    found, start = {}, 0
    for split, count in SOURCES.items():
        chosen = np.sort(place[dealt[start : start + count]])
        files = []
        for image in pixels[chosen]:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            files.append(buffer.getvalue())
        found[split], start = (files, source.target[chosen].astype(np.int64)), start + count
    return found


def tones(digits: Ints, rng: np.random.Generator) -> NDArray[np.uint8]:
    """DTMF key tones as WAV files `[N, bytes]`: 8 kHz, 16 bit, mono, 0.25 s.

    Each tone -34 to -16 dB of full scale, both phases random, onset up to 40 ms late, and white noise 0 to 20 dB
    below the tone.
    """
    row = np.where(digits == 0, 3, (digits - 1) // 3)
    column = np.where(digits == 0, 1, (digits - 1) % 3)
    files = np.empty((len(digits), 44 + 2 * TONE_SAMPLES), dtype=np.uint8)
    files[:, :44] = np.frombuffer(_wav_header(TONE_SAMPLES), dtype=np.uint8)
    time = np.arange(TONE_SAMPLES, dtype=np.float32) / RATE
    for start in range(0, len(digits), 512):  # a block at a time, to keep the working set small
        part = slice(start, start + 512)
        n = len(digits[part])
        phase = rng.uniform(0, 2 * np.pi, (2, n, 1)).astype(np.float32)
        onset = rng.uniform(0, 0.04, (n, 1)).astype(np.float32)
        level = (10 ** (rng.uniform(-34, -16, (n, 1)) / 20)).astype(np.float32)
        noise = (10 ** (rng.uniform(-20, 0, (n, 1)) / 20)).astype(np.float32)
        low = np.float32(2 * np.pi) * np.array(LOW, np.float32)[row[part], None] * time
        high = np.float32(2 * np.pi) * np.array(HIGH, np.float32)[column[part], None] * time
        wave = (np.sin(low + phase[0]) + np.sin(high + phase[1])) * (time >= onset)
        wave += noise * rng.standard_normal((n, TONE_SAMPLES), dtype=np.float32)
        pcm = np.clip(np.rint(wave * level * 32767), -32768, 32767).astype("<i2")
        files[part, 44:] = pcm.view(np.uint8)
    return files


def _wav_header(samples: int) -> bytes:
    size = 2 * samples
    return (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    ) + (b"data" + struct.pack("<I", size))


def morse(digits: Ints, rng: np.random.Generator) -> tuple[NDArray[np.float32], Ints]:
    """Keying of the digit in Morse code (ITU-R M.1677-1) as one signal per row, end to end, and offsets `[N+1]`.

    On is a random level about 1, off is 0, plus noise; 6 to 12 samples per dot and up to two dots of silence
    before and after, so that rows have 54 to 276 samples.
    """
    units = np.zeros((10, 20), dtype=np.float32)
    for digit in range(10):
        dots = [i < digit if digit <= 5 else i >= digit - 5 for i in range(5)]
        keyed = "0".join("1" if dot else "111" for dot in dots)
        units[digit, : len(keyed)] = [int(unit) for unit in keyed]
    length = np.array([19 - 2 * (d if d <= 5 else 10 - d) for d in range(10)])[digits]
    dot = rng.uniform(6, 12, len(digits))
    lead, tail = rng.uniform(0, 2, (2, len(digits))) * dot
    offsets = np.concatenate([[0], np.cumsum(np.ceil(lead + length * dot + tail).astype(np.int64))])
    of = np.repeat(np.arange(len(digits)), np.diff(offsets))
    unit = np.floor((np.arange(offsets[-1]) - offsets[of] - lead[of]) / dot[of]).astype(np.int64)
    keyed_on = np.where((unit >= 0) & (unit < length[of]), units[digits[of], np.clip(unit, 0, 19)], 0)
    level = rng.uniform(0.6, 1.4, len(digits))[of]
    signal = keyed_on * level + 0.2 * rng.standard_normal(offsets[-1])
    return np.round(signal, 4).astype(np.float32), offsets


def readings(digits: Ints, rng: np.random.Generator) -> Floats:
    """Readings `[N, 7]` of a seven-segment display: 1 where lit, else 0, plus noise; NaN where missing."""
    found = np.round(LIT[digits] + SEGMENT_NOISE * rng.standard_normal((len(digits), 7)), 4)
    found[rng.random(found.shape) < SEGMENT_MISSING] = np.nan
    return found


def digits_bayes_rate() -> float:
    """Accuracy of the best possible classifier of the table sense (about 0.95).

    All digits are equally likely, and a reading is missing whatever its value, so with x the readings, O those
    that are there, l(d, s) whether digit d lights segment s and sigma the noise, the exact posterior is

        p(d | x)  proportional to  prod over s in O of  exp(-(x_s - l(d, s))^2 / (2 sigma^2))

    and the Bayes rate is E[max over d of p(d | x)], taken here over random draws (standard error below 3e-4).
    """
    rng, total = np.random.default_rng(0), 0.0
    for _ in range(8):
        x = readings(rng.integers(10, size=50_000), rng)[:, None, :]
        score = -np.nansum((x - LIT) ** 2, axis=-1) / (2 * SEGMENT_NOISE**2)
        total += float((1 / np.exp(score - score.max(1, keepdims=True)).sum(1)).sum())
    return total / 400_000


DRAWS = {"train": 4, "val": 1, "test": 3}  # rows of `digits` per handwritten scan
SUM_ROWS = {"train": 200, "val": 5, "test": 20}  # rows of `digits-sum` per pair of digits
ROTATION_ROWS = {"train": 2, "val": 2, "test": 2}  # rows of `digits-rotation` per handwritten scan
ROTATION = 60.0  # degrees, to either side
POOL = {"train": 200, "val": 20, "test": 50}  # tones of `digits-sum` per digit


@lru_cache(maxsize=1)  # a sweep, and the tests, ask for it over and over
def digits(_: str) -> Tables:
    """One concept, five senses: each scan with several independent draws of the other senses."""
    import pyarrow as pa

    tables = {}
    for number, (split, (files, labels)) in enumerate(scans().items()):
        senses = [np.random.default_rng([7, number, sense]) for sense in range(5)]
        source = np.tile(np.arange(len(files)), DRAWS[split])
        y = labels[source]
        signal, offsets = morse(y, senses[1])
        measured = readings(y, senses[2])
        columns: dict[str, Any] = {
            "image": shared(pa.array(files, pa.binary()), source),
            "audio": binary(tones(y, senses[0])),
            "series": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(signal)),
        }
        columns |= {name: pa.array(measured[:, i], from_pandas=True) for i, name in enumerate(SEGMENTS)}
        columns["display"] = np.array(["red", "green", "blue"])[senses[3].integers(3, size=len(y))].tolist()
        columns["text"] = words(y, senses[4])
        columns["label"] = ENGLISH[y].tolist()
        columns["split"] = [split] * len(y)
        tables[split] = pa.table(columns)
    return tables


def digits_sum(_: str) -> Tables:
    """Image a, audio b, text (a + b) mod 10, with every pair (a, b) equally often in every split."""
    import pyarrow as pa

    tables = {}
    for number, (split, (files, labels)) in enumerate(scans().items()):
        rng = np.random.default_rng([11, number])
        pairs = rng.permutation(np.repeat(np.arange(100), SUM_ROWS[split]))
        a, b = pairs // 10, pairs % 10
        of_digit = [np.flatnonzero(labels == digit) for digit in range(10)]
        image = np.array([of_digit[digit][pick % len(of_digit[digit])] for digit, pick in zip(
            a.tolist(), rng.integers(2**31, size=len(a)).tolist(), strict=True
        )])  # fmt: skip
        pool = binary(tones(np.repeat(np.arange(10), POOL[split]), rng))
        words = ENGLISH[(a + b) % 10].tolist()
        columns = {
            "image": shared(pa.array(files, pa.binary()), image),
            "audio": shared(pool, b * POOL[split] + rng.integers(POOL[split], size=len(b))),
            "text": words,
            "label": words,
            "split": [split] * len(words),
        }
        tables[split] = pa.table(columns)
    return tables


def digits_rotation(_: str) -> Tables:
    """Handwritten digits turned by a random angle, which is the target: each scan by several."""
    import pyarrow as pa

    tables = {}
    for number, (split, (files, labels)) in enumerate(scans().items()):
        source = np.tile(np.arange(len(files)), ROTATION_ROWS[split])
        angles = np.round(np.random.default_rng([17, number]).uniform(-ROTATION, ROTATION, len(source)), 1)
        images = [turned(files[i], angle) for i, angle in zip(source, angles.tolist(), strict=True)]
        columns = {
            "image": pa.array(images, pa.binary()),
            "angle": angles,
            "label": ENGLISH[labels[source]],
        }
        tables[split] = pa.table({**columns, "split": [split] * len(source)})
    return tables


def digits_mislabelled(share: str) -> Tables:
    """Handwritten digits of which a share of the training and val rows bear another digit's name, drawn evenly from
    those that it could be; `truth` has the digit's own name. Test labels are right."""
    import pyarrow as pa

    tables = {}
    for number, (split, (files, labels)) in enumerate(scans().items()):
        rng = np.random.default_rng([29, number])
        wrong = rng.permutation(len(labels)) < (0 if split == "test" else round(float(share) * len(labels)))
        told = np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
        columns = {"image": pa.array(files, pa.binary()), "label": ENGLISH[told], "truth": ENGLISH[labels]}
        tables[split] = pa.table({**columns, "split": [split] * len(labels)})
    return tables


def shared(values: "pa.Array", indices: NDArray[np.int64]) -> "pa.Array":
    """A column whose rows refer to a few stored values."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), values)


def binary(files: NDArray[np.uint8]) -> "pa.Array":
    """Equally long files `[N, bytes]` as a column."""
    import pyarrow as pa

    offsets = np.arange(len(files) + 1, dtype=np.int32) * np.int32(files.shape[1])
    data = pa.py_buffer(np.ascontiguousarray(files))
    return pa.Array.from_buffers(pa.binary(), len(files), [None, pa.py_buffer(offsets), data])
