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
LDLIBS   = -lmicrohttpd -lgnutls -linih -ljansson -lsqlite3 -lzip -ljpeg -lpng -lz -lpcre2-8 -lutf8proc -lnettle \
           -lfaiss_c -lfaiss -lopenblas -lgomp -lstdc++ -lm

FOLDERS         := base kernels imaging index retriever reader diagnose eval server cli
NEEDS_base      :=
NEEDS_kernels   := base
NEEDS_imaging   := base
NEEDS_index     := imaging base
NEEDS_retriever := index imaging kernels base
NEEDS_reader    := imaging kernels base
NEEDS_diagnose  := reader retriever $(NEEDS_retriever)
NEEDS_eval      := diagnose $(NEEDS_diagnose)
NEEDS_server    := diagnose $(NEEDS_diagnose)
NEEDS_cli       := server eval $(NEEDS_server)

lib  = $(B)/lib$(1).a
libs = $(foreach d,$(1) $(NEEDS_$(1)),$(call lib,$(d)))
src  = $(filter-out cli/main.c,$(wildcard $(1)/*.c $(1)/cpu/*.c $(1)/ref/*.c))
obj  = $(patsubst %.c,$(B)/obj/%.o,$(call src,$(1)))

TESTS  := $(patsubst %.c,%,$(wildcard $(FOLDERS:%=tests/%/test_*.c)))
BENCH  := $(patsubst %.c,%,$(wildcard bench/*.c))

all: $(B)/jomed

define folder
$(call lib,$(1)): $(call obj,$(1)) ; @rm -f $$@; $$(AR) rcs $$@ $$^
$(B)/tests/$(1)/test_%: $(B)/obj/tests/$(1)/test_%.o $(call libs,$(1)) ; @mkdir -p $$(@D); $$(CC) $$(LDFLAGS) $$^ -lcmocka $$(LDLIBS) -o $$@
endef
$(foreach d,$(FOLDERS),$(eval $(call folder,$(d))))
# The server is tested with an engine that does what a test says: its functions, linked first, stand before the real ones.
$(B)/tests/server/%: LDFLAGS += -Wl,--allow-multiple-definition

$(B)/jomed: $(B)/obj/cli/main.o $(call libs,cli) ; $(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
# Tools that test scripts use.
$(B)/tests/e2e/%: $(B)/obj/tests/e2e/%.o $(call libs,eval) ; @mkdir -p $(@D); $(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@
$(B)/bench/%: $(B)/obj/bench/%.o $(call libs,cli) ; @mkdir -p $(@D); $(CC) $(LDFLAGS) $^ $(BENCH_LIBS) $(LDLIBS) -o $@

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
	@$(MAKE) --no-print-directory B=build-fuzz CC=clang SAN="$(FUZZ_SAN)" $(FUZZERS:%=build-fuzz/fuzz/fuzz_%)
	@JOMED_BUILD=build-fuzz tests/fuzz/run.sh $(FUZZERS)

$(B)/bench/bench_linear: BENCH_LIBS := -ldnnl # measured against; no part of the product (apt: libdnnl-dev)

# One source, several instruction sets: the suffix of the file says which. Chosen at run time (kernels/cpu/cpu.c).
ISA_avx2       := -mavx2 -mfma -mf16c
ISA_avx512     := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
$(B)/obj/%.o: %.c ; @mkdir -p $(@D); $(CC) $(CFLAGS) $(ISA_$(lastword $(subst _, ,$(basename $(notdir $<))))) -c $< -o $@

# The emulation (tests/simt): the same kernels by g++, run on the CPU. Every load and store of a kernel goes through -fsanitize=thread's
# calls to tests/simt/check.cc; in a sanitized build the sanitizer looks instead.
SIMT        := $(B)/simt
SIMT_WARN    = -Wall -Wextra -Wshadow -Wno-unknown-pragmas -Wno-unused-function $(WERROR)
SIMT_FLAGS   = -std=c++17 -D_GNU_SOURCE -DJOMED_SIMT -O2 -g -ffp-contract=off -fno-math-errno -fno-strict-aliasing $(SIMT_WARN) -pthread -I. -MMD -MP
SIMT_CHECK   = $(if $(SAN),$(SAN),-fsanitize=thread --param tsan-instrument-func-entry-exit=0 \
               -fsanitize=bounds$(,)alignment$(,)shift$(,)signed-integer-overflow$(,)integer-divide-by-zero)
SIMT_OBJ    := $(patsubst %.cu,$(SIMT)/obj/%.o,$(wildcard kernels/cuda/*.cu)) \
               $(patsubst %.cc,$(SIMT)/obj/%.o,$(filter-out tests/simt/test_%,$(wildcard tests/simt/*.cc)))
SIMT_LIBS    = $(patsubst $(call lib,kernels),$(SIMT)/libkernels.a,$(call libs,eval))
SIMT_TESTS  := $(patsubst %,$(SIMT)/%,$(basename $(wildcard tests/cuda/test_*.c tests/simt/test_*.c tests/simt/test_*.cc)))
$(SIMT)/obj/kernels/cuda/%.o: kernels/cuda/%.cu ; @mkdir -p $(@D); $(CXX) $(SIMT_FLAGS) $(SIMT_CHECK) -x c++ -c $< -o $@
$(SIMT)/obj/tests/simt/test_%.o: tests/simt/test_%.cc ; @mkdir -p $(@D); $(CXX) $(SIMT_FLAGS) $(SIMT_CHECK) -c $< -o $@
$(SIMT)/obj/tests/simt/%.o: tests/simt/%.cc ; @mkdir -p $(@D); $(CXX) $(SIMT_FLAGS) $(SAN) -c $< -o $@
$(SIMT)/obj/%.o: %.c ; @mkdir -p $(@D); $(CC) $(CFLAGS) -DJOMED_SIMT -c $< -o $@
$(SIMT)/libkernels.a: $(filter-out $(B)/obj/kernels/cuda/%,$(call obj,kernels)) $(SIMT_OBJ) ; @rm -f $@; $(AR) rcs $@ $^
SIMT_LINK    = @mkdir -p $(@D); $(CXX) $(LDFLAGS) $^ -lcmocka $(LDLIBS) -o $@
$(SIMT)/tests/simt/%: $(SIMT)/obj/tests/simt/%.o $(SIMT)/libkernels.a $(call lib,base) ; $(SIMT_LINK)
$(SIMT)/tests/cuda/%: $(SIMT)/obj/tests/cuda/%.o $(SIMT_LIBS) ; $(SIMT_LINK)

.PHONY: all deps demo test fuzz check check-sanitized check-threads clean help install
.SECONDARY:
help:
	@echo "make demo      install packages, build, index the demonstration pictures, serve, ask a question"
	@echo "make test      install packages, build, run all tests, also under sanitizers"
	@echo "make           build build/jomed      make check-FOLDER   the tests of one folder"
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
check: $(TESTS:%=$(B)/%) $(REPLAYS) $(B)/jomed $(B)/tests/e2e/compare $(DEMO_INDEX)/manifest.json ; $(run) $(TESTS:%=$(B)/%) $(call script,tests/*/test_*.sh)
# Under AddressSanitizer: everything but the long end-to-end comparison (tests/e2e/test_demo.sh), which runs the same code.
check-sanitized: $(TESTS:%=$(B)/%) $(REPLAYS) $(B)/jomed $(DEMO_INDEX)/manifest.json ; $(run) $(TESTS:%=$(B)/%) $(call script,tests/http/test_*.sh tests/fuzz/test_*.sh tests/index/test_*.sh tests/e2e/test_cli.sh)
THREADED := $(B)/tests/server/% $(B)/tests/base/test_queue $(B)/tests/eval/test_run $(B)/tests/reader/test_lora
check-threads: export JOMED_SAME_BITS_TIMES := 1
check-threads: $(call tests,$(THREADED)) $(B)/jomed $(DEMO_INDEX)/manifest.json ; $(run) $(call tests,$(THREADED)) tests/http/test_same_bits.sh
check-fuzz: $(REPLAYS) ; $(run) $(call script,tests/fuzz/test_*.sh)
check-e2e: $(B)/tests/e2e/compare $(DEMO_INDEX)/manifest.json
check-simt: $(SIMT_TESTS) ; $(run) $(SIMT_TESTS)
# The tests of one folder: make check-reader
check-%: ; @$(MAKE) --no-print-directory $(call tests,$(B)/tests/$*/%) && B=$(B) JOMED_DEMO_INDEX=$(DEMO_INDEX) tests/run.sh $(call tests,$(B)/tests/$*/%) $(call script,tests/$*/test_*.sh)

-include $(shell find $(B)/obj $(SIMT)/obj -name '*.d' 2>/dev/null)
