#!/usr/bin/env python3
"""golden/labels.json: multi-label marginals in plain PyTorch.

Every label is asked alone: the whole prompt of each candidate anew, one forward pass per answer, no tree, no cache, no shared
part. p_k(label) is the softmax over Yes and No; fused once as a mixture of probabilities, once from weighted mean logits.
On the two tiny checkpoints (float32) and the demonstration reader (its bfloat16 weights widened). Run from the project's
root in the oracle's chroot:

    python3 tests/oracle/make_labels.py
"""
import json
import os

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration, Qwen2VLForConditionalGeneration
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

GOLDEN = "tests/fixtures/golden/labels.json"
ANSWERS = ["Yes", "No"]
FIXTURE, DEMO = "tests/fixtures/images/", "models/demo/synthetic/"


def open_image(name):
    return Image.open(name).convert("RGB")


class Qwen2VL:
    def __init__(self, path):
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        self.tok, self.ip = Tokenizer.from_file(path + "/tokenizer.json"), Qwen2VLImageProcessorPil.from_pretrained(path)

    def pictures(self, images):
        b = self.ip(images=images, return_tensors="pt")
        return dict(pixel_values=b["pixel_values"].float(), image_grid_thw=b["image_grid_thw"])

    def prompt(self, px, caption, question):
        img = ["<|vision_start|>" + "<|image_pad|>" * (int(t * h * w) // 4) + "<|vision_end|>" for t, h, w in px["image_grid_thw"]]
        return ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n" + img[0]
                + f"background: {caption}\n\n" + img[1] + question + "<|im_end|>\n<|im_start|>assistant\n")

    def logits(self, ids, px):
        self.model.model.rope_deltas = None
        types = (ids == self.model.config.image_token_id).to(torch.int32)
        return self.model(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False, **px).logits[0]


class Pixtral:
    def __init__(self, path):
        self.model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        self.tok, self.ip = Tokenizer.from_file(path + "/tokenizer.json"), PixtralImageProcessorPil.from_pretrained(path)
        self.patch = self.model.config.vision_config.patch_size

    def pictures(self, images):
        b = self.ip(images=images, return_tensors="pt")
        return dict(pixel_values=b["pixel_values"].float(), image_sizes=torch.as_tensor(b["image_sizes"]))

    def prompt(self, px, caption, question):
        grid = [(int(h) // self.patch, int(w) // self.patch) for h, w in px["image_sizes"]]
        img = ["[IMG_BREAK]".join(["[IMG]" * w] * h) + "[IMG_END]" for h, w in grid]
        return "<s>[INST]" + img[0] + f"background: {caption}\n\n" + img[1] + question + "[/INST]"

    def logits(self, ids, px):
        return self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **px).logits[0]


def ids_of(tok, text):
    return tok.encode(text, add_special_tokens=False).ids


def score(m, z, caption, query, question):
    """log-likelihood and mean logit of each answer behind one whole prompt."""
    px = m.pictures([z, query])
    before, logp, logit = ids_of(m.tok, m.prompt(px, caption, question)), [], []
    for a in ANSWERS:
        own = ids_of(m.tok, a)
        y = m.logits(torch.tensor([before + own]), px)[len(before) - 1:-1].double()
        at = (torch.arange(len(own)), torch.tensor(own))
        logp.append(float(torch.log_softmax(y, -1)[at].sum()))
        logit.append(float(y[at].mean()))
    return logp, logit


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def run(m, checkpoint, folder, query, question, labels, candidates, weights):
    q = open_image(folder + query)
    logp, logit = [], []
    for image, caption in candidates:
        each = [score(m, open_image(folder + image), caption, q, f"{question}\n{label}?") for label in labels]
        logp.append([e[0] for e in each])
        logit.append([e[1] for e in each])
    lp, lg, w = np.array(logp), np.array(logit), np.array(weights)[:, None, None]
    r = lambda x: np.round(x, 8).tolist()
    return dict(checkpoint=checkpoint, folder=folder, query=query, question=question, labels=labels, answers=ANSWERS,
                candidates=[dict(image=i, caption=c, weight=v) for (i, c), v in zip(candidates, weights)],
                logp=r(lp), logit=r(lg), each=r(softmax(lp)[..., 0]), paper=r((w * softmax(lp)).sum(0)[:, 0]),
                reference=r(softmax((w * lg).sum(0))[:, 0]))


def main():
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    drawn = [("rgb_97x131.jpg", "A house."), ("rgba_71x59.png", ""), ("rgb_300x180.jpg", "Hills with\n\ntwo breaks")]
    labels = ["House", "Hill", "House on a hill", "\u5c71", "3 of them"]
    cases = [run(c("tests/fixtures/" + n), n, FIXTURE, "gray_64x48.png", "What is there?", labels, drawn, [0.5, 0.375, 0.125])
             for n, c in (("qwen2vl-tiny", Qwen2VL), ("pixtral-tiny", Pixtral))]

    with open(DEMO + "index.jsonl", encoding="utf-8") as f:
        index = [json.loads(line) for line in f]
    z = [(index[i]["img_path"], index[i]["text"]) for i in (0, 300, 305, 719)]
    cases.append(run(Qwen2VL("models/demo/reader"), "demo", DEMO, "pneumonia/test/0007.png",
                     "Does this chest X-ray image show signs of this finding?", ["Pneumonia", "Pleural effusion", "Cardiomegaly", "No finding"],
                     z, [0.25, 0.375, 0.25, 0.125]))
    with open(GOLDEN, "w", encoding="utf-8", newline="\n") as f:
        json.dump(cases, f, ensure_ascii=False, indent=1)
        f.write("\n")
    os.chmod(GOLDEN, 0o644)


if __name__ == "__main__":
    main()
