// SPDX-License-Identifier: Apache-2.0

// Package maps reads and writes the maps of the programs in package bpf: one file
// for each family of maps, and the only code that knows how their keys and values
// are laid out. It does not create, pin or close maps; package loader owns them.
package maps
