#!/bin/sh
# SPDX-License-Identifier: Apache-2.0

# Compiles every program to Go and an object, and records what they were made
# from. Run by go generate. The objects are committed, so the compiler's version
# is part of the source: another clang makes other bytes of the same program.
set -eu

export BPF2GO_CC="${BPF2GO_CC:-clang-19}"
export BPF2GO_STRIP="${BPF2GO_STRIP:-llvm-strip-19}"

# -mcpu=v3: 32-bit jumps (Linux 5.1); any kernel with sk_lookup has them.
# bpfel only: no big-endian machine is supported.
compile() {
	go tool bpf2go -go-package bpf -target bpfel \
		-cflags '-O2 -g -Wall -Werror -mcpu=v3 -Iinclude' "$@"
}

cd "$(dirname "$0")"
compile Listen listen.bpf.c
compile -type state -type way -type mark -type reason -type packet_count -type event_kind -type flow_flags -type device_flags -type side -type event -type transition Packet packet.bpf.c
compile -type misfit -type end_state -type shortcut -type settings Sockmap sockmap.bpf.c

LC_ALL=C sha256sum -- *.bpf.c include/*.h generate.sh >sources.sha256
