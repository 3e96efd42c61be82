#!/bin/sh
# cuda_libs.sh - the folders of the libraries that nvcc links with, joined by ':'. nvcc itself says, since what is found may be a
# wrapper that stands anywhere. Nothing where there is no nvcc.
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
[ -x "$nvcc" ] || exit 0
"$nvcc" --dryrun -x cu /dev/null -o /dev/null 2>&1 | sed -n 's/^.. LIBRARIES=//p' | tr ' ' '\n' | sed -n 's/^"*-L\([^"]*\)"*$/\1/p' |
    grep -v '/stubs$' | paste -sd:
