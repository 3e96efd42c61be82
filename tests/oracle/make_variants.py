#!/usr/bin/env python3
"""Small pictures in every layout that PNG and JPEG have, and what Pillow makes of them.

    cd tests && sh CHROOT.sh run ROOT python3 oracle/make_variants.py fixtures/variants

Writes the files, decoded.safetensors (U8 [height, width, 3] after Image.open(...).convert("RGB")) and resize.json: 64-bit
FNV-1a hashes of Pillow's bicubic and nearest resizes of the picture S(w, h) of specs/models.md 2.5, at odd and extreme sizes.
Everything is drawn from arithmetic. Made with Pillow 12.3.0, libjpeg-turbo, numpy 2.4.
"""
import io
import json
import os
import struct
import sys
import zlib

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
W, H = 37, 23
y, x = np.mgrid[0:H, 0:W]
ramp = (x * 6 + y * 5) & 255
wide = (x * 1771 + y * 2999 + 17) & 65535
rgb = np.stack([ramp, 255 - ramp, (x * y + 3 * x) & 255], -1).astype(np.uint8)
files = {}


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pack(a, depth):
    """Rows of [h, w, channels] as PNG packs them."""
    h = a.shape[0]
    a = a.reshape(h, -1)
    if depth == 16:
        return [r.astype(">u2").tobytes() for r in a]
    if depth == 8:
        return [r.astype(np.uint8).tobytes() for r in a]
    bits = [[(v >> (depth - 1 - b)) & 1 for v in r for b in range(depth)] for r in a.astype(int)]
    return [np.packbits(np.array(b, np.uint8)).tobytes() for b in bits]


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(name, a, depth, kind, extra=(), interlaced=False):
    a = a.reshape(a.shape[0], a.shape[1], -1)
    parts = [a[y0::dy, x0::dx] for x0, y0, dx, dy in ADAM7] if interlaced else [a]
    raw = b"".join(b"\0" + r for p in parts if p.size for r in pack(p, depth))
    head = struct.pack(">IIBBBBB", a.shape[1], a.shape[0], depth, kind, 0, 0, int(interlaced))
    files[name] = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunk(n, d) for n, d in extra)
                   + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


palette = bytes((i * 37 + c * 80) & 255 for i in range(256) for c in range(3))
for lace in (False, True):
    s = "_adam7" if lace else ""
    for d in (1, 2, 4, 8):
        png(f"gray{d}{s}.png", ramp >> (8 - d), d, 0, interlaced=lace)
        png(f"palette{d}{s}.png", ramp >> (8 - d), d, 3, [(b"PLTE", palette[:3 << d])], lace)
    png(f"gray16{s}.png", wide, 16, 0, interlaced=lace)
    png(f"rgb8{s}.png", rgb, 8, 2, interlaced=lace)
    png(f"rgb16{s}.png", np.stack([wide, 65535 - wide, wide ^ 21845], -1), 16, 2, interlaced=lace)
    png(f"gray_alpha8{s}.png", np.stack([ramp, x * 7 & 255], -1), 8, 4, interlaced=lace)
    png(f"gray_alpha16{s}.png", np.stack([wide, wide ^ 43690], -1), 16, 4, interlaced=lace)
    png(f"rgba8{s}.png", np.dstack([rgb, x * 7 & 255]), 8, 6, interlaced=lace)
    png(f"rgba16{s}.png", np.stack([wide, 65535 - wide, wide ^ 21845, wide ^ 43690], -1), 16, 6, interlaced=lace)
png("gray16_low.png", wide & 511, 16, 0)
png("palette_short.png", ramp >> 4, 8, 3, [(b"PLTE", palette[:9])])
png("palette_trns.png", ramp >> 4, 8, 3, [(b"PLTE", palette[:48]), (b"tRNS", bytes(range(0, 160, 10)))])
png("gray_trns.png", ramp, 8, 0, [(b"tRNS", struct.pack(">H", int(ramp[3, 3])))])
png("rgb_trns.png", rgb, 8, 2, [(b"tRNS", struct.pack(">HHH", *[int(v) for v in rgb[3, 3]]))])
png("gamma.png", rgb, 8, 2, [(b"gAMA", struct.pack(">I", 100000)), (b"sBIT", b"\5\6\5"), (b"bKGD", bytes(6))])
png("one_pixel.png", rgb[:1, :1], 8, 2)
png("one_column_adam7.png", rgb[:, :1], 8, 2, interlaced=True)

big = np.asarray(Image.fromarray(rgb).resize((83, 61), Image.Resampling.BICUBIC))


def jpeg(name, a, mode=None, patch=None, **kw):
    im = Image.fromarray(a)
    if mode:
        im = im.convert(mode)
    buf = io.BytesIO()
    im.save(buf, "JPEG", **kw)
    b = bytearray(buf.getvalue())
    if patch is not None:  # the colour transform byte of Adobe's segment
        b[b.index(b"Adobe") + 11] = patch
    files[name] = bytes(b)


for name, sub in (("444", 0), ("422", 1), ("420", 2)):
    jpeg(f"ycc{name}.jpg", big, quality=85, subsampling=sub)
    jpeg(f"ycc{name}_progressive.jpg", big, quality=85, subsampling=sub, progressive=True)
jpeg("ycc411.jpg", big, quality=85, subsampling="4:1:1")
jpeg("restart.jpg", big, quality=85, restart_marker_blocks=2)
jpeg("gray.jpg", big, "L", quality=85)
jpeg("gray_progressive.jpg", big, "L", quality=85, progressive=True)
jpeg("rgb_components.jpg", big, quality=85, keep_rgb=True)
jpeg("cmyk.jpg", big, "CMYK", quality=90)
jpeg("cmyk_progressive.jpg", big, "CMYK", quality=90, progressive=True)
jpeg("ycck.jpg", big, "CMYK", patch=2, quality=90)
jpeg("low_quality.jpg", big, quality=3)
jpeg("one_pixel.jpg", big[:1, :1], quality=90)
exif = Image.Exif()
exif[0x0112] = 6
jpeg("orientation6.jpg", big, quality=85, exif=exif)

decoded = {}
for name, data in files.items():
    with open(os.path.join(out, name), "wb") as f:
        f.write(data)
    a = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    decoded[name] = np.ascontiguousarray(a)
save_file(decoded, os.path.join(out, "decoded.safetensors"))


def fnv(b):
    h = 0xcbf29ce484222325
    for v in b:
        h = (h ^ v) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


def scene(w, h):
    yy, xx = np.mgrid[0:h, 0:w].astype(np.int64)
    return np.stack([(7 * xx + 13 * yy + 31 * c + ((xx * yy) >> 3) + ((xx ^ yy) * 5)) & 255 for c in range(3)], -1).astype(np.uint8)


def resize(im, size, kind):
    """Pillow since 12.2 (its pull request 9524) does the vertical pass first where height > 100 * width and the height shrinks.
    The released code ran 10.2 and 10.4, which did not: ask for the horizontal pass, then for the vertical one."""
    if kind == Image.Resampling.BICUBIC:
        im = im.resize((size[0], im.height), kind)
    return im.resize(size, kind)


rows = []
rng = np.random.default_rng(20240917)
sizes = [tuple(int(v) for v in rng.integers(1, 90, 4)) for _ in range(24)]
sizes += [(1, 1, 5, 7), (5, 7, 1, 1), (1, 300, 3, 40), (2, 500, 2, 20), (3, 301, 28, 28), (300, 3, 28, 28), (2, 450, 56, 112),
          (1, 200, 1, 100), (201, 2, 31, 2), (3, 400, 3, 399), (4, 401, 5, 40), (40, 40, 41, 40), (40, 40, 40, 41), (333, 7, 11, 7),
          (7, 333, 7, 11), (64, 64, 112, 112), (28, 28, 112, 112), (1, 250, 28, 300), (255, 255, 1, 254), (2, 2, 300, 200),
          (322, 20, 255, 16), (1000, 9, 256, 2), (31, 17, 31, 18)]
for w, h, nw, nh in sizes:
    im = Image.fromarray(scene(w, h))
    rows.append([w, h, nw, nh] + [fnv(resize(im, (nw, nh), r).tobytes()) for r in (Image.Resampling.BICUBIC, Image.Resampling.NEAREST)])
with open(os.path.join(out, "resize.json"), "w") as f:
    f.write('{"columns": ["width", "height", "new_width", "new_height", "bicubic", "nearest"], "rows": [\n')
    f.write(",\n".join(json.dumps(r) for r in rows) + "\n]}\n")
print(len(files), "files", sum(map(len, files.values())), "bytes")
# What Pillow does with a JPEG that lacks its last bytes, for the record in jpeg.c.
for name in ("ycc420.jpg", "ycc420_progressive.jpg", "restart.jpg", "gray.jpg"):
    for cut in (2, 4, 40):
        try:
            Image.open(io.BytesIO(files[name][:-cut])).convert("RGB")
            print(name, "less", cut, "bytes: decodes")
        except OSError as e:
            print(name, "less", cut, "bytes:", e)
