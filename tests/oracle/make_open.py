#!/usr/bin/env python3
"""golden/open.json: open answers in plain PyTorch.

The whole prompt of every candidate anew at each step: no cache, no shared part, no tree of beams. On the two tiny checkpoints
(float32) and the demonstration reader (its bfloat16 weights widened) with pairs that its retriever found. For one candidate the
library's own generate() must give the same tokens: greedy, with beams (length_penalty 0), with a repetition penalty. No decision
may be nearer to a tie than MARGIN. Run from the project's root in the oracle's chroot:

    python3 tests/oracle/make_open.py
"""
import json
import os

import numpy as np
import torch
from safetensors.numpy import load_file
from make_labels import DEMO, FIXTURE, Pixtral, Qwen2VL, ids_of, open_image

GOLDEN = "tests/fixtures/golden/open.json"
MARGIN = 1e-3  # in log p, or in logits for the reference's mode


class Case:
    """One question, and K prompts that it makes."""

    def __init__(self, model, path, folder, query, question, candidates, weights, heads):
        self.m, self.folder, self.query, self.question = model, folder, query, question
        self.candidates, self.w, self.heads = candidates, np.array(weights, np.float64), heads
        with open(path + "/generation_config.json", encoding="utf-8") as f:
            g = json.load(f)
        eos = g["eos_token_id"]
        self.ends = eos if isinstance(eos, list) else [eos]
        self.pad = g.get("pad_token_id", self.ends[0])
        q = open_image(folder + query)
        self.px = [model.pictures([open_image(folder + image), q]) for _, image, _ in candidates]
        self.ids = [ids_of(model.tok, model.prompt(p, caption, question)) for p, (_, _, caption) in zip(self.px, candidates)]
        self.seen = {}

    def logits(self, k, tail, penalty):
        """[V] of candidate k behind its prompt and tail, after transformers' RepetitionPenaltyLogitsProcessor."""
        key = (k, tuple(tail))
        if key not in self.seen:
            self.seen[key] = self.m.logits(torch.tensor([self.ids[k] + list(tail)]), self.px[k])[-1].double().numpy()
        x = self.seen[key].copy()
        at = np.array(sorted(set(self.ids[k] + list(tail))))
        x[at] = np.where(x[at] < 0, x[at] * penalty, x[at] / penalty)
        return x


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def top(x, n=3):
    best = np.argsort(-x, kind="stable")[:n]
    return [[int(v), round(float(x[v]), 7)] for v in best]


def clear(best, second):
    assert best - second > MARGIN, ("too near a tie: choose another picture", best, second)


def synchronised(c, beams, penalty, most):
    """Beam search over log sum_k w_k p_k; with one beam it is greedy."""
    K = len(c.candidates)
    run, done, tops = [dict(tokens=[], logp=0.0, each=np.zeros(K), agrees=[True] * K)], None, []
    for _ in range(most):
        options = []
        for b, beam in enumerate(run):
            lp = np.stack([log_softmax(c.logits(k, beam["tokens"], penalty)) for k in range(K)])
            mix = np.log((c.w[:, None] * np.exp(lp)).sum(0))
            if b == 0:
                tops.append(top(mix))
            options += [(beam["logp"] + mix[v], b, int(v), lp) for v in np.argsort(-mix, kind="stable")[:beams * 4 + 4]]
        options.sort(key=lambda o: (-o[0], o[1], o[2]))
        clear(options[beams - 1][0], options[beams][0])
        next_run = []
        for rank, (score, b, v, lp) in enumerate(options):
            own, end = lp.argmax(1), v in c.ends
            new = dict(tokens=run[b]["tokens"] + ([] if end else [v]), logp=score, each=run[b]["each"] + lp[:, v],
                       agrees=[a and (int(o) == v or (end and int(o) in c.ends)) for a, o in zip(run[b]["agrees"], own)])
            if end:
                if rank < beams and (done is None or score > done["logp"]):
                    done = new
            elif len(next_run) < beams:
                next_run.append(new)
        run = next_run
        if done is not None and done["logp"] >= run[0]["logp"]:
            return done, True, tops
    return run[0], False, tops


def reference(c, penalty, most):
    """Every branch greedy by itself, padded once it has ended; argmax of the weighted logits at each step."""
    K = len(c.candidates)
    tails, ended = [[] for _ in range(K)], [False] * K
    out, tops = dict(tokens=[], logp=0.0, each=np.zeros(K), agrees=[True] * K), []
    for _ in range(most):
        x = np.stack([c.logits(k, tails[k], penalty) for k in range(K)])
        pool = (c.w[:, None] * x).sum(0)
        best = top(pool)
        clear(best[0][1], best[1][1])
        tops.append(best)
        v = best[0][0]
        end = v in c.ends
        out["logp"] += log_softmax(pool)[v]
        for k in range(K):
            out["each"][k] += log_softmax(x[k])[v]
            own = c.pad if ended[k] else int(x[k].argmax())
            ended[k] = ended[k] or own in c.ends
            out["agrees"][k] = out["agrees"][k] and (end if ended[k] else own == v)
            tails[k].append(own)
        if end:
            return out, True, tops
        out["tokens"].append(v)
        for bit in (1, 2):
            of_head = [k for k in range(K) if c.heads[k] & bit]
            if of_head and all(ended[k] for k in of_head):
                return out, True, tops
    return out, False, tops


def library(c, beams, penalty, most):
    """generate() of the library for the first candidate: its tokens up to the end token."""
    c.m.model.model.rope_deltas = None
    ids = torch.tensor([c.ids[0]])
    kw = dict(c.px[0])
    if isinstance(c.m, Qwen2VL):
        kw["mm_token_type_ids"] = (ids == c.m.model.config.image_token_id).to(torch.int32)
    y = c.m.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, top_k=None, top_p=None, temperature=None,
                           num_beams=beams, length_penalty=0.0, repetition_penalty=penalty, max_new_tokens=most, eos_token_id=c.ends,
                           pad_token_id=c.pad, use_cache=True, **kw)[0, ids.shape[1]:].tolist()
    for i, v in enumerate(y):
        if v in c.ends:
            return y[:i]
    return y


def text_of(c, tokens):
    return c.m.tok.decode(tokens, skip_special_tokens=True).replace("\0", "\ufffd")


def run(c, name, runs):
    rows, ends = [], c.ends
    for mode, beams, penalty, most, *own_ends in runs:
        c.ends = own_ends or ends
        alone = Case.__new__(Case)
        alone.__dict__.update(c.__dict__, candidates=c.candidates[:1], w=np.ones(1))
        y, ended, tops = reference(c, penalty, most) if mode == "reference" else synchronised(c, beams, penalty, most)
        if mode == "paper":
            mine = synchronised(alone, beams, penalty, most)[0]["tokens"]
            assert mine == library(alone, beams, penalty, most), (name, mine, library(alone, beams, penalty, most))
        rows.append(dict(mode=mode, ends=c.ends, beams=beams, repetition_penalty=penalty, max_new_tokens=most, tokens=y["tokens"],
                         text=text_of(c, y["tokens"]), ended=ended, logp=round(float(y["logp"]), 7),
                         each=[round(float(x), 7) for x in y["each"]], agrees=[bool(a) for a in y["agrees"]], top=tops))
    return dict(checkpoint=name, folder=c.folder, query=c.query, question=c.question,
                candidates=[dict(id=i, image=image, caption=caption, weight=float(w), heads=h)
                            for (i, image, caption), w, h in zip(c.candidates, c.w, c.heads)], runs=rows)


RUNS = [("paper", 1, 1.0, 12), ("paper", 3, 1.0, 8), ("paper", 1, 1.3, 12), ("reference", 1, 1.0, 8)]
# The tiny readers never end by themselves: a token that they do emit as the end token makes an answer end on its way. pixtral-tiny:
# the second candidate goes on with 616 and is padded, the third ends with 495 where the mixture does with 477.
ENDING = {"qwen2vl-tiny": [("paper", 3, 1.0, 8, 545), ("reference", 1, 1.0, 8, 81, 349)],
          "pixtral-tiny": [("paper", 1, 1.0, 8, 477, 495), ("paper", 3, 1.0, 8, 477, 495), ("reference", 1, 1.0, 8, 616, 495)]}


def demo_case(model, task, question, split, i):
    with open(DEMO + "index.jsonl", encoding="utf-8") as f:
        index = [json.loads(line) for line in f]
    with open(f"{DEMO}{task}_{split}.jsonl", encoding="utf-8") as f:
        line = [json.loads(x) for x in f][i]
    found = load_file("models/demo/eval.safetensors")
    at = f"synthetic/{task}mnist/{split}/"
    ids, weights = found[at + "candidates"][i].tolist(), found[at + "weights"][i].tolist()
    assert len(set(ids)) == 4, "a pair that both heads found: choose another case"
    z = [(int(k), index[k]["img_path"], index[k]["text"]) for k in ids]
    return Case(model, "models/demo/reader", DEMO, line["image_path"], question or line["question"], z, weights, [1, 1, 2, 2])


def main():
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    drawn = [(7, "rgb_97x131.jpg", "A house."), (3, "rgba_71x59.png", ""), (12, "rgb_300x180.jpg", "Hills with\n\ntwo breaks")]
    weights, heads = [0.5, 0.375, 0.125], [1, 3, 2]
    cases = []
    for name, family in (("qwen2vl-tiny", Qwen2VL), ("pixtral-tiny", Pixtral)):
        c = Case(family("tests/fixtures/" + name), "tests/fixtures/" + name, FIXTURE, "gray_64x48.png", "What is there?", drawn, weights, heads)
        cases.append(run(c, name, RUNS + ENDING[name]))
    demo = Qwen2VL("models/demo/reader")
    cases.append(run(demo_case(demo, "breast", None, "test", 7), "demo", RUNS))
    cases.append(run(demo_case(demo, "retina", None, "test", 26), "demo", RUNS))
    cases.append(run(demo_case(demo, "pneumonia", None, "test", 46), "demo", RUNS))
    with open(GOLDEN, "w", encoding="utf-8", newline="\n") as f:
        json.dump(cases, f, ensure_ascii=False, indent=1)
        f.write("\n")
    os.chmod(GOLDEN, 0o644)


if __name__ == "__main__":
    main()
