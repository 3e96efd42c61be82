#include "reader/pictures.h"

#include <math.h>

int picture_tokens(const picture *p) { return p->rows * p->cols; }

int picture_patches(const picture *p) { return p->grid_h * p->grid_w; }

picture picture_from(const pixel_plan *p)
{
    int h = p->y.n_out / p->patch, w = p->x.n_out / p->patch;
    return (picture){h / p->merge, w / p->merge, h, w, *p};
}

int pictures_patches(const picture *p, int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++) sum += picture_patches(&p[i]);
    return sum;
}

void pictures_pixels(kernels *k, act *px, const picture *p, int n, int width)
{
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        k->pixels(k, act_at(k, px, at), &p[i].plan);
        at += (size_t)picture_patches(&p[i]) * (size_t)width;
    }
}

void pictures_attend(attend_args *at, const kernels *k, const picture *p, int n, const act *qkv, act *out, int E,
                     int heads)
{
    size_t row = 0, width = (size_t)E;
    int    hd = E / heads;
    for (int i = 0; i < n; i++) {
        int        P = picture_patches(&p[i]);
        const act *q = act_at(k, qkv, row * 3 * width);
        at[i] = (attend_args){.n_heads = heads, .n_kv_heads = heads, .head_dim = hd, .scale = 1.0f / sqrtf((float)hd),
                              .q = q, .q_stride = 3 * E, .n_q = P,
                              .out = act_at(k, out, row * width), .out_stride = E, .mask = ATTEND_ALL};
        at[i].span[1] = (kv_span){act_at(k, q, width), act_at(k, q, 2 * width), P, 3 * E};
        row += (size_t)P;
    }
}
