// SPDX-License-Identifier: Apache-2.0

// Package loader brings the programs of package bpf into the kernel and out of
// it, and finds out what the kernel can do. It decides nothing about connections,
// and what runs in user space reaches the kernel's BPF side through it alone.
package loader
