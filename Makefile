# jomed: build, test, demo. `make help` lists the targets.
# Every folder is one static library that may use only the folders named in its NEEDS line, so includes point one way.
B       ?= build
, := ,
PREFIX  ?= /usr/local
SAN     ?=
OPT     ?= -O2 -g
WARN     = -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes $(WERROR)
CFLAGS   = -std=c17 -D_GNU_SOURCE $(OPT) -ffp-contract=off -fno-math-errno $(WARN) -pthread -I. -isystem third_party/include -MMD -MP $(SAN)
LDFLAGS  = $(SAN) -pthread -Lthird_party/lib -Wl,--as-needed
LDLIBS   = $(CUDA_LIBS) -lmicrohttpd -lgnutls -linih -ljansson -lsqlite3 -lzip -ljpeg -lpng -lz -lpcre2-8 -lutf8proc -lnettle \
           -lfaiss_c -lfaiss -lopenblas -lgomp -lstdc++ -lm

# The GPU's kernels (kernels/cuda) are built by nvcc; GPU=0 leaves them out: then --device knows the CPU alone. Code for each
# architecture named (the last also as PTX, for GPUs to come). A kernel that spills registers does not build.
NVCC       ?= $(firstword $(wildcard $(addsuffix /nvcc,$(subst :, ,$(PATH)) /usr/local/cuda/bin)))
GPU        ?= $(if $(NVCC),1,0)
$(if $(filter 0,$(GPU))$(NVCC),,$(error GPU=$(GPU) needs nvcc in PATH or in /usr/local/cuda/bin; GPU=0 builds without it))
CUDA_KNOWN := $(if $(filter 0,$(GPU)),,$(patsubst sm_%,%,$(shell $(NVCC) --list-gpu-code)))
CUDA_ARCHS ?= $(foreach a,80 86 89 90a 100,$(if $(filter $(a:a=),$(CUDA_KNOWN)),$(a)))
CUDA_PTX   ?= $(patsubst %a,%,$(lastword $(CUDA_ARCHS)))
NVFLAGS     = -std=c++17 -O3 -g --fmad=false -I. -MMD -MP $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a)$(,)code=sm_$(a)) \
              -gencode arch=compute_$(CUDA_PTX),code=compute_$(CUDA_PTX) -Xptxas -v -Xcompiler -pthread,-Wall,-Wextra,-Wno-unused-function
# Where the runtime's library is, nvcc itself says: the nvcc found may be a wrapper that stands anywhere.
CUDA_LIBS  := $(if $(filter 0,$(GPU)),,$(shell $(NVCC) --dryrun -x cu /dev/null -o /dev/null 2>&1 | sed -n 's/^.. LIBRARIES=//p') -lcudart_static -ldl -lrt)
# What kernels, reader and base alone want of it, where tools/carry.sh brought no more.
GPU_LDLIBS = $(if $(CARRIED),$(filter-out -lmicrohttpd -lgnutls -linih -lsqlite3 -lzip -lfaiss_c -lfaiss -lopenblas -lgomp,$(LDLIBS)),$(LDLIBS))

FOLDERS         := base kernels imaging index retriever reader diagnose eval server cli
NEEDS_base      :=
NEEDS_kernels   := base
NEEDS_imaging   := kernels base
NEEDS_index     := imaging kernels base
NEEDS_retriever := index imaging kernels base
NEEDS_reader    := imaging kernels base
NEEDS_diagnose  := reader retriever $(NEEDS_retriever)
NEEDS_eval      := diagnose $(NEEDS_diagnose)
NEEDS_server    := diagnose $(NEEDS_diagnose)
NEEDS_cli       := server eval $(NEEDS_server)

lib  = $(B)/lib$(1).a
libs = $(foreach d,$(1) $(NEEDS_$(1)),$(call lib,$(d)))
src  = $(filter-out cli/main.c,$(wildcard $(1)/*.c $(1)/cpu/*.c $(1)/ref/*.c $(1)/cuda/$(if $(filter 0,$(GPU)),*.c,*.cu)))
obj  = $(patsubst %,$(B)/obj/%.o,$(basename $(call src,$(1))))

TESTS  := $(patsubst %.c,%,$(wildcard $(FOLDERS:%=tests/%/test_*.c)))
BENCH  := $(patsubst %.c,%,$(wildcard bench/*.c))

all: $(B)/jomed

define folder
$(call lib,$(1)): $(call obj,$(1)) ; @rm -f $$@; $$(AR) rcs $$@ $$(filter %.o,$$^)
$(B)/tests/$(1)/test_%: $(B)/obj/tests/$(1)/test_%.o $(call libs,$(1)) ; @mkdir -p $$(@D); $$(CC) $$(LDFLAGS) $$^ -lcmocka $$(LDLIBS) -o $$@
endef
$(foreach d,$(FOLDERS),$(eval $(call folder,$(d))))
# With and without the GPU in one build folder: the library is made anew when that changes.
$(call lib,kernels): $(B)/gpu$(GPU)
$(B)/gpu$(GPU): $(if $(wildcard $(B)/gpu$(GPU)),,changed) ; @mkdir -p $(@D); rm -f $(B)/gpu?; touch $@
.PHONY: changed # so that .SECONDARY below does not take the missing file for one that nobody needs
# The server is tested with an engine that does what a test says: its functions, linked first, stand before the real ones.
$(B)/tests/server/%: LDFLAGS += -Wl,--allow-multiple-definition

$(B)/jomed: $(B)/obj/cli/main.o $(call libs,cli) ; $(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
# Tools that test scripts use.
$(B)/tests/e2e/%: $(B)/obj/tests/e2e/%.o $(call libs,eval) ; @mkdir -p $(@D); $(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(B)/bench/%: $(B)/obj/bench/%.o $(call libs,cli) ; @mkdir -p $(@D); $(CC) $(LDFLAGS) $^ $(BENCH_LIBS) $(GPU_LDLIBS) -o $@

# Fuzz targets: tests/fuzz/fuzz_NAME.c and the folders it needs. replay_NAME runs a corpus without a fuzzer, for `make check`;
# fuzz_NAME is libFuzzer's, in a build folder of its own.
FUZZ_image       := imaging
FUZZ_safetensors := base
FUZZ_json        := server
FUZZ_multipart   := server
FUZZ_tokenizer   := reader retriever
FUZZ_npz         := index
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
REPLAYS := $(FUZZERS:%=$(B)/fuzz/replay_%)
define fuzzer
$(B)/fuzz/replay_$(1): $(B)/obj/tests/fuzz/fuzz_$(1).o $(B)/obj/tests/fuzz/replay.o $(foreach d,$(FUZZ_$(1)),$(call libs,$(d)))
	@mkdir -p $$(@D); $$(CC) $$(LDFLAGS) -Wl,--start-group $$^ -Wl,--end-group $$(LDLIBS) -o $$@
$(B)/fuzz/fuzz_$(1): $(B)/obj/tests/fuzz/fuzz_$(1).o $(foreach d,$(FUZZ_$(1)),$(call libs,$(d)))
	@mkdir -p $$(@D); $$(CC) -fsanitize=fuzzer $$(LDFLAGS) -Wl,--start-group $$^ -Wl,--end-group $$(LDLIBS) -o $$@
endef
$(foreach f,$(FUZZERS),$(eval $(call fuzzer,$(f))))
FUZZ_SAN := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
fuzz:
	@tools/deps.sh fuzz
	@$(MAKE) --no-print-directory B=build-fuzz GPU=0 CC=clang SAN="$(FUZZ_SAN)" $(FUZZERS:%=build-fuzz/fuzz/fuzz_%)
	@JOMED_BUILD=build-fuzz tests/fuzz/run.sh $(FUZZERS)

$(B)/bench/bench_linear: BENCH_LIBS := -ldnnl # measured against; no part of the product (apt: libdnnl-dev)

# One source, several instruction sets: the suffix of the file says which. Chosen at run time (kernels/cpu/cpu.c).
ISA_avx2       := -mavx2 -mfma -mf16c
ISA_avx512     := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
# The inner loops also where the rest is built to be debugged: most of a sanitized test's time is spent in them.
$(B)/obj/kernels/cpu/isa_%.o: CFLAGS += -O2
$(B)/obj/%.o: %.c ; @mkdir -p $(@D); $(CC) $(CFLAGS) $(ISA_$(lastword $(subst _, ,$(basename $(notdir $<))))) -c $< -o $@

# ptxas says what each kernel uses: kept beside the object (tools/ptxas.sh prints it as a table) and searched for spills.
$(B)/obj/kernels/cuda/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D); $(NVCC) $(NVFLAGS) -c $< -o $@ 2>$@.ptxas || { cat $@.ptxas >&2; rm -f $@; exit 1; }
	@tools/ptxas.sh --check$(if $(WERROR),-werror) $@.ptxas || { rm -f $@; exit 1; }

# The emulation (tests/simt): the same kernels by g++, run on the CPU. Every load and store of a kernel goes through -fsanitize=thread's
# calls to tests/simt/check.cc; in a sanitized build the sanitizer looks instead.
SIMT        := $(B)/simt
SIMT_WARN    = -Wall -Wextra -Wshadow -Wno-unknown-pragmas -Wno-unused-function $(WERROR)
SIMT_FLAGS   = -std=c++17 -D_GNU_SOURCE -DJOMED_SIMT -O2 -g -ffp-contract=off -fno-math-errno -fno-strict-aliasing -fno-threadsafe-statics $(SIMT_WARN) -pthread -I. -MMD -MP
SIMT_CHECK   = $(if $(SAN),$(SAN),-fsanitize=thread --param tsan-instrument-func-entry-exit=0 -fno-tree-vectorize \
               -fsanitize=bounds$(,)alignment$(,)shift$(,)signed-integer-overflow$(,)integer-divide-by-zero)
SIMT_OBJ    := $(patsubst %.cu,$(SIMT)/obj/%.o,$(wildcard kernels/cuda/*.cu)) \
               $(patsubst %.cc,$(SIMT)/obj/%.o,$(filter-out tests/simt/test_%,$(wildcard tests/simt/*.cc)))
SIMT_LIBS    = $(patsubst $(call lib,kernels),$(SIMT)/libkernels.a,$(call libs,eval))
SIMT_BENCH  := $(addprefix $(SIMT)/bench/,bench_gpu bench_reader make_random_checkpoint)
SIMT_TESTS  := $(patsubst %,$(SIMT)/%,$(basename $(wildcard tests/cuda/test_*.c tests/simt/test_*.c tests/simt/test_*.cc)))
$(SIMT)/obj/kernels/cuda/%.o: kernels/cuda/%.cu ; @mkdir -p $(@D); $(CXX) $(SIMT_FLAGS) $(SIMT_CHECK) -x c++ -c $< -o $@
$(SIMT)/obj/tests/simt/test_%.o: tests/simt/test_%.cc ; @mkdir -p $(@D); $(CXX) $(SIMT_FLAGS) $(SIMT_CHECK) -c $< -o $@
$(SIMT)/obj/tests/simt/%.o: tests/simt/%.cc ; @mkdir -p $(@D); $(CXX) $(SIMT_FLAGS) $(SAN) -c $< -o $@
$(SIMT)/obj/%.o: %.c ; @mkdir -p $(@D); $(CC) $(CFLAGS) -DJOMED_SIMT -c $< -o $@
$(SIMT)/libkernels.a: $(filter-out $(B)/obj/kernels/cuda/%,$(call obj,kernels)) $(SIMT_OBJ) ; @rm -f $@; $(AR) rcs $@ $^
SIMT_LINK    = @mkdir -p $(@D); $(CXX) $(LDFLAGS) $^ -lcmocka $(LDLIBS) -o $@
$(SIMT)/tests/simt/%: $(SIMT)/obj/tests/simt/%.o $(SIMT)/libkernels.a $(call lib,base) ; $(SIMT_LINK)
$(SIMT)/tests/cuda/%: $(SIMT)/obj/tests/cuda/%.o $(SIMT_LIBS) ; $(SIMT_LINK)
$(SIMT)/bench/%: $(SIMT)/obj/bench/%.o $(SIMT_LIBS) ; $(SIMT_LINK)
# The program with an emulated cuda:0, for trying what runs on a GPU machine. Slow: seconds a case of the demonstration.
$(SIMT)/jomed: $(B)/obj/cli/main.o $(call lib,cli) $(call lib,server) $(SIMT_LIBS) ; $(SIMT_LINK)

.PHONY: all deps demo test fuzz check check-programs check-sanitized check-threads check-simt check-gpu bench-gpu gpu-tests gpu-bench clean help install
.SECONDARY:
help:
	@echo "make demo      install packages, build, index the demonstration pictures, serve, ask a question"
	@echo "make test      install packages, build, run all tests, also under sanitizers"
	@echo "make           build build/jomed      make check-FOLDER   the tests of one folder"
	@echo "make GPU=0     the same without CUDA, which is the default where there is no nvcc"
	@echo "make check-gpu the kernels' tests on this machine's GPU      make bench-gpu     its table of numbers"
	@echo "make install   into PREFIX (/usr/local) make fuzz           60 s of each fuzz target"
deps: ; @tools/deps.sh
demo: deps ; @$(MAKE) --no-print-directory -j$(shell nproc) $(B)/jomed && B=$(B) tools/demo.sh
test: deps ; @tests/all.sh
clean: ; rm -rf build*
install: $(B)/jomed
	install -Dm755 $< $(DESTDIR)$(PREFIX)/bin/jomed
	install -Dm644 docs/jomed.1 $(DESTDIR)$(PREFIX)/share/man/man1/jomed.1

# The demonstration index, which tests of the whole path share. Built once, by the program as shipped.
DEMO_INDEX := build/demo-index
$(DEMO_INDEX)/manifest.json: models/demo/synthetic/index.jsonl models/demo/retriever/model.safetensors
	@$(MAKE) --no-print-directory B=build build/jomed
	build/jomed index build --force --retriever models/demo/retriever --jsonl $< --images models/demo/synthetic --out $(DEMO_INDEX)

tests  = $(filter $(1),$(TESTS:%=$(B)/%))
script = $(wildcard $(1))
run    = @B=$(B) JOMED_DEMO_INDEX=$(DEMO_INDEX) tests/run.sh
check-programs: $(TESTS:%=$(B)/%) $(SIMT_TESTS) $(SIMT_BENCH) $(REPLAYS) $(B)/jomed $(B)/tests/e2e/compare $(DEMO_INDEX)/manifest.json
check: check-programs ; $(run) $(TESTS:%=$(B)/%) $(SIMT_TESTS) $(call script,tests/*/test_*.sh)
# Under AddressSanitizer: everything but the long end-to-end comparison (tests/e2e/test_demo.sh), which runs the same code.
SANITIZED_SIMT := $(filter-out %/test_banks,$(filter $(SIMT)/tests/simt/% $(addprefix $(SIMT)/tests/cuda/test_,linear rows attend score mixture search preprocess),$(SIMT_TESTS)))
check-sanitized: export JOMED_SAME_BITS_TIMES := 2
check-sanitized: $(TESTS:%=$(B)/%) $(SANITIZED_SIMT) $(REPLAYS) $(B)/jomed $(DEMO_INDEX)/manifest.json ; $(run) $(TESTS:%=$(B)/%) $(SANITIZED_SIMT) $(call script,tests/http/test_*.sh tests/fuzz/test_*.sh tests/index/test_*.sh tests/e2e/test_cli.sh)
THREADED := $(B)/tests/server/% $(B)/tests/base/test_queue $(B)/tests/kernels/test_pool $(B)/tests/eval/test_run $(addprefix $(B)/tests/reader/test_,lora prefix_cache)
check-threads: export JOMED_SAME_BITS_TIMES := 1
check-threads: $(call tests,$(THREADED)) $(B)/jomed $(DEMO_INDEX)/manifest.json ; $(run) $(call tests,$(THREADED)) tests/http/test_same_bits.sh
check-fuzz: $(REPLAYS) ; $(run) $(call script,tests/fuzz/test_*.sh)
check-e2e: $(B)/tests/e2e/compare $(DEMO_INDEX)/manifest.json
check-simt: $(SIMT_TESTS) $(SIMT_BENCH) $(DEMO_INDEX)/manifest.json ; $(run) $(SIMT_TESTS) $(call script,tests/cuda/test_*.sh)

# On a real GPU, from a plain copy of the tree: tests/cuda/on_gpu.sh and bench/gpu.sh, in a build folder of their own, with code for
# this machine's card alone. tools/carry.sh puts what they link into third_party, for machines without the system's packages.
CARRIED    := $(wildcard third_party/carried)
GPU_TESTS  := $(patsubst %.c,$(B)/%,$(filter-out $(if $(CARRIED),tests/cuda/test_index.c tests/cuda/test_diagnose.c),$(wildcard tests/cuda/test_*.c)))
GPU_BENCH  := $(addprefix $(B)/bench/,bench_gpu bench_reader make_random_checkpoint)
$(B)/tests/cuda/%: $(B)/obj/tests/cuda/%.o $(call libs,eval) ; @mkdir -p $(@D); $(CC) $(LDFLAGS) $^ -lcmocka $(GPU_LDLIBS) -o $@
gpu-tests: $(GPU_TESTS) $(if $(CARRIED),,$(B)/jomed $(B)/tests/e2e/compare)
gpu-bench: $(GPU_BENCH)
on_gpu = $(MAKE) --no-print-directory -j$(shell nproc) GPU=1 B=build-gpu CUDA_ARCHS=$$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | \
         head -n 1 | tr -d . | sed 's/^90$$/90a/')
has_gpu = @nvidia-smi >/dev/null 2>&1 || { echo "$@: nvidia-smi finds no GPU on this machine" >&2; exit 1; }
check-gpu: ; $(has_gpu); $(on_gpu) gpu-tests && B=build-gpu tests/cuda/on_gpu.sh $(GPU_TESTS:$(B)/%=build-gpu/%)
bench-gpu: ; $(has_gpu); $(on_gpu) gpu-bench && B=build-gpu bench/gpu.sh
# The tests of one folder: make check-reader
check-%: ; @$(MAKE) --no-print-directory $(call tests,$(B)/tests/$*/%) && B=$(B) JOMED_DEMO_INDEX=$(DEMO_INDEX) tests/run.sh $(call tests,$(B)/tests/$*/%) $(call script,tests/$*/test_*.sh)

-include $(shell find $(B)/obj $(SIMT)/obj -name '*.d' 2>/dev/null)
