// SPDX-License-Identifier: Apache-2.0

// Command plots draws what the benchmark against peers has measured.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	in := flag.String("in", "", "`FILE` that the benchmark has written (-json)")
	out := flag.String("out", "", "`DIR` for the SVG files")
	flag.Parse()
	if err := write(*in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

func write(in, out string) error {
	r, err := readRun(in)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, p := range pages(r) {
		if missing := p.missing(r); missing != nil || p.panels == nil {
			fmt.Fprintf(os.Stderr, "plots: %s is not drawn: not measured: %s\n", p.file, strings.Join(missing, "; "))
			continue
		}
		svg, err := pageSVG(r, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
		if err := os.WriteFile(filepath.Join(out, p.file), svg, 0o644); err != nil {
			return err
		}
	}
	return nil
}
