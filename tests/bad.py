"""Files that people and programs put among photos: what each is, its bytes, and the code that it gets (None: a row)."""

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image


def picture(mode: str = "RGB", size: tuple[int, int] = (41, 29), seed: int = 7) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(pixels[..., 0]))
    return image if image.mode == mode else image.convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def png_part(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


def png(width: int, height: int, body: bytes) -> bytes:
    """A PNG whose header claims so many RGB pixels, whatever is in its one data chunk."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_part(b"IHDR", header) + png_part(b"IDAT", body) + png_part(b"IEND", b"")


def bmp(width: int, height: int, body: bytes = b"\0" * 64) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + head + body


def gif(width: int, height: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


def webp(width: int, height: int, kind: bytes = b"VP8X") -> bytes:
    """A WebP whose header claims so many pixels."""
    small = bytearray(encoded(picture(), "WEBP", lossless=kind != b"VP8 "))
    if kind == b"VP8X":
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        part = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + bytes(small[12:])
    elif kind == b"VP8L":
        small[21:25] = (width - 1 | height - 1 << 14).to_bytes(4, "little")
        part = bytes(small[12:])
    else:
        small[26:30] = struct.pack("<HH", width, height)
        part = bytes(small[12:])
    return b"RIFF" + struct.pack("<I", 4 + len(part)) + b"WEBP" + part


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims so many pixels."""
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def archive() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr("photo.jpg", JPEG)
    return sink.getvalue()


def damaged(data: bytes, at: float, count: int = 1) -> bytes:
    start = int(len(data) * at)
    return data[:start] + bytes(byte ^ 0xFF for byte in data[start : start + count]) + data[start + count :]


PNG, JPEG = encoded(picture(), "PNG"), encoded(picture(), "JPEG")
GIF, BMP = encoded(picture("P"), "GIF"), encoded(picture(), "BMP")
WEBP = encoded(picture(), "WEBP", lossless=True)
FRAMES = [picture(seed=seed) for seed in (1, 2, 3)]

# Name → (code, bytes). Odd ones that have a row:
ODD = {
    "png.png": (None, PNG),
    "png named.jpg": (None, encoded(picture(seed=10), "PNG")),
    "gif named.jpg": (None, encoded(picture("P", seed=11), "GIF")),
    "bmp named.jpg": (None, encoded(picture(seed=12), "BMP")),
    "webp named.png": (None, encoded(picture(seed=13), "WEBP", lossless=True)),
    "jpeg named.gif": (None, encoded(picture(seed=14), "JPEG")),
    "UPPER.JPG": (None, encoded(picture(seed=15), "JPEG")),
    "greys.jpg": (None, encoded(picture("L"), "JPEG")),
    "cmyk.jpg": (None, encoded(picture("CMYK"), "JPEG")),
    "progressive.jpg": (None, encoded(picture(), "JPEG", progressive=True)),
    "turned.jpg": (None, encoded(picture(), "JPEG", exif=turned(6))),
    "no such turn.jpg": (None, encoded(picture(), "JPEG", exif=turned(99))),
    "exif of noise.jpg": (None, encoded(picture(), "JPEG", exif=b"Exif\0\0" + bytes(range(200)))),
    "with a colour profile of noise.jpg": (None, encoded(picture(), "JPEG", icc_profile=bytes(range(250)))),
    "more behind its end.jpg": (None, encoded(picture(seed=16), "JPEG") + b"<?php system($_GET[0]); ?>" * 9),
    "an archive behind its end.png": (None, encoded(picture(seed=17), "PNG") + archive()),
    "several pictures.jpg": (None, encoded(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:])),
    "moving.gif": (None, encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])),
    "moving.png": (None, encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:])),
    "moving.webp": (None, encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:])),
    "16 bits.png": (None, encoded(Image.fromarray(np.full((9, 9), 300, np.uint16)), "PNG")),
    "one bit.png": (None, encoded(picture("1"), "PNG")),
    "palette.png": (None, encoded(picture("P"), "PNG")),
    "palette and alpha.png": (None, encoded(picture("P"), "PNG", transparency=bytes(range(256)))),
    "alpha.png": (None, encoded(picture("RGBA"), "PNG")),
    "greys and alpha.png": (None, encoded(picture("LA"), "PNG")),
    "alpha.webp": (None, encoded(picture("RGBA"), "WEBP", lossless=True)),
    "one pixel.png": (None, encoded(picture(size=(1, 1)), "PNG")),
    "one row.png": (None, encoded(picture(size=(3000, 1)), "PNG")),
    "one column.bmp": (None, encoded(picture(size=(1, 3000)), "BMP")),
}
# Bad ones:
BAD = {
    "empty.jpg": ("zero_byte", b""),
    "one byte.jpg": ("not_image", b"\xff"),
    "zeros.jpg": ("not_image", bytes(5000)),
    "noise.jpg": ("not_image", np.random.default_rng(1).bytes(5000)),
    "text.png": ("not_image", b"this is a text\n" * 50),
    "text of two bytes a letter.jpg": ("not_image", "this is a text".encode("utf-16")),
    "error page.jpg": ("not_image", b"<!DOCTYPE html><html><body>404</body></html>"),
    "record.jpg": ("not_image", b'{"error": "rate limited"}'),
    "pointer.jpg": ("not_image", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
    "document.jpg": ("not_image", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    "archive.jpg": ("not_image", b"PK\3\4" + bytes(100)),
    "gzip.jpg": ("not_image", b"\x1f\x8b\x08" + bytes(100)),
    "program.jpg": ("not_image", b"\x7fELF" + bytes(100)),
    "pickle.jpg": ("not_image", b"\x80\x04cos\nsystem\n(S'exit 1'\ntR."),
    "postscript.jpg": ("not_image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "thumbs.jpg": ("not_image", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500)),
    "resource fork.jpg": ("not_image", b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100)),
    "picture.jpg of svg.jpg": ("unsupported", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'),
    "tiff.jpg": ("unsupported", encoded(picture(), "TIFF")),
    "icon.png": ("unsupported", encoded(picture(), "ICO")),
    "netpbm.png": ("unsupported", encoded(picture(), "PPM")),
    "jpeg 2000.jpg": ("unsupported", encoded(picture(), "JPEG2000")),
    "heic.jpg": ("unsupported", b"\0\0\0\x18ftypheic" + bytes(200)),
    "film.jpg": ("unsupported", b"\0\0\0\x18ftypmp42" + bytes(200)),
    "photoshop.jpg": ("unsupported", b"8BPS\0\1" + bytes(100)),
    "sound.webp": ("decode_error", b"RIFF\x24\0\0\0WAVEfmt " + bytes(100)),
    "signature.png": ("decode_error", b"\x89PNG\r\n\x1a\n"),
    "signature.jpg": ("decode_error", b"\xff\xd8\xff"),
    "beginning and end.jpg": ("decode_error", b"\xff\xd8\xff\xd9"),
    "half.png": ("truncated", PNG[: len(PNG) // 2]),
    "half.jpg": ("truncated", JPEG[: len(JPEG) // 2]),
    "all but the end.jpg": ("truncated", JPEG[: len(JPEG) - 60]),
    "half.gif": ("truncated", GIF[: len(GIF) // 2]),
    "half.bmp": ("truncated", BMP[: len(BMP) // 2]),
    "half.webp": ("decode_error", WEBP[: len(WEBP) // 2]),
    "damaged header.png": ("decode_error", PNG[:8] + damaged(PNG[8:], 0, 16)),
    "damaged middle.png": ("decode_error", damaged(PNG, 0.5, 40)),
    "damaged.webp": ("decode_error", WEBP[:20] + b"\0" + WEBP[21:]),
    "no data.png": ("truncated", png(9, 9, b"")),
    "other data.png": ("decode_error", png(9, 9, b"not compressed at all")),
    "no pixels.png": ("decode_error", png(0, 0, zlib.compress(b""))),
    "no width.bmp": ("decode_error", bmp(0, 9)),
    "bomb.png": ("too_many_pixels", png(20_000, 20_000, zlib.compress(bytes(1000)))),
    "bomb.bmp": ("too_many_pixels", bmp(20_000, 20_000)),
    "bomb.gif": ("too_many_pixels", gif(20_000, 20_000)),
    "bomb.jpg": ("too_many_pixels", jpeg_of_size(20_000, 20_000)),
    "bomb.webp": ("too_many_pixels", webp(20_000, 20_000)),
    "bomb without loss.webp": ("too_many_pixels", webp(16_384, 16_384, b"VP8L")),
    "bomb with loss.webp": ("too_many_pixels", webp(16_383, 16_383, b"VP8 ")),
    "largest.png": ("too_many_pixels", png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(1000)))),
}
KINDS = ODD | BAD
