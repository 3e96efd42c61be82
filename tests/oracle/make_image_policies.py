#!/usr/bin/env python3
"""golden/image-policies.json: the resize chains of the policy jomed-256, by Pillow.

Per picture and family the size after every step and the 64-bit FNV-1a hash of the last one's RGB bytes: the fixtures'
pictures (from decoded.safetensors), and the synthetic pictures of test_preprocess.c at sizes where the chain has an edge
(int(w * f) just below 256, sides below 28, aspect ratios above 200). Run from the project's root in the oracle's chroot:

    python3 tests/oracle/make_image_policies.py
"""
import json

import numpy as np
from PIL import Image
from safetensors.numpy import load_file
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

GOLDEN = "tests/fixtures/golden/image-policies.json"
SIZES = [(322, 200), (200, 322), (347, 347), (374, 1200), (640, 480), (257, 256), (256, 256), (255, 17), (1000, 27), (27, 1000),
         (4000, 300), (2999, 2000), (256, 1), (1, 256), (180, 1), (201, 1), (1, 201), (200, 1), (400, 2), (3, 1), (5000, 5000)]


def synthetic(w, h):
    x, y, c = np.arange(w)[None, :, None], np.arange(h)[:, None, None], np.arange(3)[None, None, :]
    return Image.fromarray(((7 * x + 13 * y + 31 * c + ((x * y) >> 3) + (x ^ y) * 5) & 255).astype(np.uint8), "RGB")


def fnv1a(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def jomed(img):
    """The released code's step, for both families."""
    if img.width > 256 or img.height > 256:
        f = 256 / max(img.width, img.height)
        img = img.resize((max(int(img.width * f), 28), max(int(img.height * f), 28)), Image.Resampling.NEAREST)
    if img.width / img.height > 200:
        img = img.resize((img.height * 180, img.height), Image.Resampling.NEAREST)
    if img.height / img.width > 200:
        img = img.resize((img.width, img.width * 180), Image.Resampling.NEAREST)
    return img


def utils_size(h, w, factor=28, low=4 * 28 * 28, high=16384 * 28 * 28):
    """qwen-vl-utils 0.0.8, smart_resize."""
    if max(h, w) / min(h, w) > 200:
        return None
    H, W = max(factor, round(h / factor) * factor), max(factor, round(w / factor) * factor)
    if H * W > high:
        b = (h * w / high) ** 0.5
        H, W = int(h / b // factor) * factor, int(w / b // factor) * factor
    elif H * W < low:
        b = (low / (h * w)) ** 0.5
        H, W = int(-(-(h * b) // factor)) * factor, int(-(-(w * b) // factor)) * factor
    return H, W


def qwen(img):
    size = utils_size(img.height, img.width)
    if not size:
        return None
    steps = [img.resize((size[1], size[0]))]
    steps.append(jomed(steps[-1]))
    h, w = smart_resize(steps[-1].height, steps[-1].width, factor=28, min_pixels=56 * 56, max_pixels=14 * 14 * 4 * 1280)
    return steps + [steps[-1].resize((w, h), Image.Resampling.BICUBIC)]


def pixtral(img):
    small = jomed(img)
    h, w = get_resize_output_image_size(np.zeros((3, small.height, small.width), np.uint8), (1024, 1024), (16, 16), "channels_first")
    return [small, small.resize((w, h), Image.Resampling.BICUBIC)]


def main():
    rows = []
    pictures = [(k, Image.fromarray(v)) for k, v in sorted(load_file("tests/fixtures/images/decoded.safetensors").items())]
    pictures += [(None, synthetic(w, h)) for w, h in SIZES]
    for name, img in pictures:
        for family, chain in (("qwen2_vl", qwen), ("llava", pixtral)):
            steps = chain(img)
            rows.append(dict(image=name, width=img.width, height=img.height, family=family,
                             steps=[s.size for s in steps] if steps else None,
                             hash=fnv1a(steps[-1].tobytes()) if steps else None))
    with open(GOLDEN, "w", encoding="utf-8") as f:
        f.write('{"rows": [\n' + ",\n".join(json.dumps(r) for r in rows) + "\n]}\n")


if __name__ == "__main__":
    main()
