#!/usr/bin/env python3
# What tests/eval/test_multilabel.c compares with: scikit-learn's subset accuracy, F1, AUROC and average precision, and a
# bootstrap of them written anew (plain pairs and steps by definition; the first resamples are compared with scikit-learn too).
# Prints the table of that file. Made with scikit-learn 1.9.0, NumPy 2.4.6.
import warnings
import numpy as np
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

M = (1 << 64) - 1
class Random:                                    # splitmix64, as eval/metrics.c
    def __init__(self, seed): self.s = seed
    def next(self):
        self.s = (self.s + 0x9e3779b97f4a7c15) & M; z = self.s
        z = ((z ^ z >> 30) * 0xbf58476d1ce4e5b9) & M
        z = ((z ^ z >> 27) * 0x94d049bb133111eb) & M
        return z ^ z >> 31
    def below(self, n): return self.next() * n >> 64

def draw(seed, n, L, steps, rate):               # the test draws the same; probabilities are multiples of 1/64: exact, with ties
    r = Random(seed); g, p = np.zeros((n, L), int), np.zeros((n, L))
    for i in range(n):
        for l in range(L):
            g[i, l] = r.below(100) < rate * (l + 1)
            p[i, l] = (r.below(steps) + g[i, l] * r.below(steps)) / 64
    return g, (p > 0.5).astype(int), p

def both(g): return 0 < g.sum() < len(g)
def f1(g, s, p): return 2 * np.sum(g & s) / (np.sum(g) + np.sum(s)) if np.sum(g) + np.sum(s) else np.nan
def auroc(g, s, p):                              # pairs by definition
    if not both(g): return np.nan
    a, b = p[g == 1][:, None], p[g == 0][None]
    return ((a > b).sum() + 0.5 * (a == b).sum()) / (a.size * b.size)
def ap(g, s, p):                                 # steps by definition
    if not both(g): return np.nan
    total, before = 0.0, 0.0
    for t in sorted(set(p), reverse=True):
        tp, recall = np.sum(g[p >= t]), np.sum(g[p >= t]) / np.sum(g)
        total += (recall - before) * tp / np.sum(p >= t); before = recall
    return total
def sk(f, g, s, p):
    if f is f1: return f1_score(g, s, zero_division=np.nan)
    if not both(g): return np.nan
    return roc_auc_score(g, p) if f is auroc else average_precision_score(g, p)

warnings.simplefilter("ignore")
num = lambda x: "NAN" if np.isnan(x) else "%.12f" % x
print("seed, n, L, steps, rate, right, undefined, values of macro f1 (all, present), auroc, ap, label 0's f1, auroc, ap; the same with their intervals")
for seed, n, L, steps, rate in [(1, 1, 1, 20, 50), (2, 2, 2, 30, 40), (3, 40, 3, 40, 20), (4, 65, 5, 8, 25), (5, 101, 4, 64, 1), (6, 12, 7, 3, 30), (7, 30, 2, 20, 0)]:
    g, s, p = draw(seed, n, L, steps, rate)
    col = lambda f, i, l: f(g[i, l], s[i, l], p[i, l])
    def mean(f, zero): return lambda i: (lambda v: (np.nan_to_num(v).mean() if zero else np.nanmean(v) if not np.isnan(v).all() else np.nan))(np.array([col(f, i, l) for l in range(L)]))
    stats = [mean(f1, True), mean(f1, False), mean(auroc, False), mean(ap, False)] + [(lambda f: lambda i: col(f, i, 0))(f) for f in (f1, auroc, ap)]
    all_ = np.arange(n)
    for l in range(L):
        for f in (f1, auroc, ap):
            a, b = col(f, all_, l), sk(f, g[:, l], s[:, l], p[:, l]); assert abs(a - b) < 1e-12 or (np.isnan(a) and np.isnan(b)), (f, a, b)
    value = [f(all_) for f in stats]
    assert abs(value[0] - f1_score(g, s, average="macro" if L > 1 else "binary", zero_division=0)) < 1e-12
    R, got = Random(2508), [[] for _ in stats]
    for b in range(2000):
        i = np.array([R.below(n) for _ in range(n)])
        for k, f in enumerate(stats): got[k].append(f(i))
        if b < 20:
            for f in (f1, auroc, ap):
                x, y = col(f, i, 0), sk(f, g[i, 0], s[i, 0], p[i, 0]); assert abs(x - y) < 1e-12 or (np.isnan(x) and np.isnan(y))
    out = []
    for v, x in zip(value, got):
        x = np.array(x); x = x[~np.isnan(x)]
        lo, hi = (np.nan, np.nan) if np.isnan(v) or not len(x) else np.quantile(x, [.025, .975])
        out.append("{%s, {%s, %s}}" % (num(v), num(lo), num(hi)))
    undefined = sum(not both(g[:, l]) for l in range(L))
    print("        {%d, %d, %d, %d, %d, %d, %d,\n         {%s}}," % (seed, n, L, steps, rate, round(accuracy_score(g, s) * n), undefined, ",\n          ".join(out)))
