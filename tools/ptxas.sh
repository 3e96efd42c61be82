#!/usr/bin/env bash
# ptxas.sh [--check | --check-werror] FILE... - what `ptxas -v` said of each kernel (the build keeps it as OBJECT.ptxas).
# As a table: kernel, architecture, registers, bytes of static shared memory, of local memory, and of spills. --check: print only kernels
# that spill, and warnings; the status is 1 if a kernel spills, with --check-werror also if there is a warning.
set -eu
check=0 werror=0
case ${1:-} in --check) check=1; shift ;; --check-werror) check=1 werror=1; shift ;; esac
cat "$@" | awk -v check=$check -v werror=$werror '
    /Compiling entry function/ { match($0, /'"'"'[^'"'"']*'"'"'/); kernel = substr($0, RSTART + 1, RLENGTH - 2); arch = $NF; gsub(/[^a-z0-9_]/, "", arch) }
    /bytes stack frame/        { stack = $1; for (i = 2; i <= NF; i++) if ($i == "spill") spill += $(i - 2) }
    /Used [0-9]+ registers/    {
        regs = $0; sub(/.*Used /, "", regs); sub(/ registers.*/, "", regs)
        smem = "0"; if (match($0, /[0-9]+ bytes smem/)) smem = substr($0, RSTART, RLENGTH - 11)
        if (!check) printf "%s %s %s %s %s %s\n", kernel, arch, regs, smem, stack, spill + 0
        else if (spill > 0) { printf "%s on %s spills %d bytes of registers\n", kernel, arch, spill; bad = 1 }
        spill = 0
    }
    /warning/ { if (check) { print; if (werror) bad = 1 } }
    END { exit bad }' | if [ $check = 1 ]; then cat >&2; else c++filt | sort -u; fi
exit "${PIPESTATUS[1]}"
