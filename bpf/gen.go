// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate ./generate.sh
