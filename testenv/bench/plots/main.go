// SPDX-License-Identifier: Apache-2.0

// Command plots draws what the benchmark against peers has measured.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	in := flag.String("in", "", "`FILE` that the benchmark has written (-json)")
	out := flag.String("out", "", "`DIR` for the SVG files")
	flag.Parse()
	r, err := readRun(*in)
	if err == nil {
		err = write(r, *out, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

// write draws every page, and says which it cannot for want of figures.
func write(r *run, dir string, missing io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range pages(r) {
		if works := p.missing(r); works != nil || p.panels == nil {
			fmt.Fprintf(missing, "plots: %s is not drawn: not measured: %s\n", p.file, strings.Join(works, "; "))
			continue
		}
		svg, err := pageSVG(r, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
		if err := os.WriteFile(filepath.Join(dir, p.file), svg, 0o644); err != nil {
			return err
		}
	}
	return nil
}
