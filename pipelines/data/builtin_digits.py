"""The ten digits in five senses, made from public standards and scikit-learn's scans, with no download.

Every generator draws one example per given digit, from the `numpy.random.Generator` it is handed.
"""

import io
import struct
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
