#!/usr/bin/env python3
# What tests/eval/test_metrics.c compares with: scikit-learn's F1, SciPy's Wilson interval, NumPy's quantiles, a bootstrap
# written anew, and the normaliser of the method's released evaluation in Python's own words. Prints the tables of that file.
# Made with scikit-learn 1.9.0, SciPy 1.17.1, NumPy 2.4.6.
import re, string, warnings
import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

M = (1 << 64) - 1
class Random:                                    # splitmix64
    def __init__(self, seed): self.s = seed
    def next(self):
        self.s = (self.s + 0x9e3779b97f4a7c15) & M; z = self.s
        z = ((z ^ z >> 30) * 0xbf58476d1ce4e5b9) & M
        z = ((z ^ z >> 27) * 0x94d049bb133111eb) & M
        return z ^ z >> 31
    def below(self, n): return self.next() * n >> 64

def sample(seed, n, labels, used):               # the test draws the same pairs
    r = Random(seed); g, p = [], []
    for _ in range(n):
        y = r.below(used); g.append(y); p.append(y if r.below(3) else r.below(used))
    return g, p

warnings.simplefilter("ignore")
r = Random(1); print("random:", [hex(r.next()) for _ in range(3)], [r.below(10) for _ in range(8)])
print("f1: seed, n, labels, used, accuracy, macro over the set, macro over those present, bootstrap of both")
for seed, n, labels, used in [(1, 1, 2, 2), (2, 2, 2, 2), (3, 63, 2, 2), (4, 64, 5, 5), (5, 65, 5, 3), (6, 257, 7, 7), (7, 12, 9, 4)]:
    g, p = map(np.array, sample(seed, n, labels, used))
    f = lambda g, p, l: f1_score(g, p, average="macro", zero_division=0, labels=l)
    R = Random(2508); a, b = [], []
    def fast(g, p, over):                        # the same as f, without scikit-learn's checks, for 2,000 resamples
        k = np.array([2 * np.sum((g == l) & (p == l)) / max(1, np.sum(g == l) + np.sum(p == l)) for l in range(labels)])
        there = np.array([np.any(g == l) or np.any(p == l) for l in range(labels)])
        return k.mean() if over else k[there].mean()
    assert abs(fast(g, p, True) - f(g, p, list(range(labels)))) < 1e-12 and abs(fast(g, p, False) - f(g, p, None)) < 1e-12
    for _ in range(2000):
        i = np.array([R.below(n) for _ in range(n)]); a.append(fast(g[i], p[i], True)); b.append(fast(g[i], p[i], False))
    q = lambda v: ", ".join("%.12f" % x for x in np.quantile(v, [.025, .975]))
    print("    {%d, %d, %d, %d, %.12f, %.12f, %.12f, {%s}, {%s}}," % (seed, n, labels, used, accuracy_score(g, p), f(g, p, list(range(labels))), f(g, p, None), q(a), q(b)))
print("wilson: right, n, lo, hi")
for k, n in [(0, 1), (1, 1), (0, 30), (30, 30), (1, 2), (55, 78), (136, 156), (498, 524), (999999, 1000000)]:
    c = binomtest(k, n).proportion_ci(.95, "wilson"); print("    {%d, %d, %.15f, %.15f}," % (k, n, c.low, c.high))
print("quantile:", [float(np.quantile([1, 2, 4, 8], q)) for q in (0, .025, .5, .95, 1)], float(np.quantile([3], .95)))

def normalise(s):
    s = "".join(c for c in s.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())
def recall(g, p):
    g, p = normalise(g).split(), normalise(p).split()
    if not g: return float(not p)
    return sum(min(g.count(w), p.count(w)) for w in set(g)) / len(g)
print("normalise:")
for s in ["Yes", "yes.", "  The  Left lung ", "an A the", "x-ray", "T1/T2 (axial)", "a\tb\u00a0c\u3000d", "\u00c9PANCHEMENT", "anatomy the theory", "", "!?", "a", "the a x", "STRASSE \u1e9e", "No;the end"]:
    print("   ", ascii(s), "->", ascii(normalise(s)))
print("recall:", [recall(g, p) for g, p in [("yes", "Yes"), ("left lower lobe", "lower lobe of the left lung"), ("a b b c", "b c c"), ("the", ""), ("the", "x"), ("x", ""), ("very very big", "very big"), ("lungs", "lung")]])
