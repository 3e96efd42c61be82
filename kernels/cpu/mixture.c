/* mixture.c - a step of decoding: the head's product, then the host's arithmetic on its rows (kernels/mixture.h). */
#include "kernels/cpu/cpu.h"
#include "kernels/mixture.h"

void cpu_mixture(kernels *k, const mixture_args *m, const act *x, const weight *w)
{
    if (!cpu_of(k)) return;
    size_t     mark = k->mark(k), V = (size_t)w->rows, rows = (size_t)m->K * (size_t)m->n;
    float     *logit = k->take(k, rows * V);
    double    *p = k->take(k, V * sizeof *p / sizeof(float)), *part = k->take(k, V * sizeof *part / sizeof(float));
    row_facts *facts = k->take(k, (size_t)m->K * sizeof *facts / sizeof(float));
    if (facts) { /* and so all */
        cpu_logits(k, logit, x, m->K * m->n, w);
        if (k->failed.code == ERR_NONE) mixture_of_logits(m, logit, (int)V, facts, p, part);
    }
    k->back(k, mark);
}
