// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written draws a run of three rounds and returns the files.
func written(t *testing.T, change func(*run)) map[string][]byte {
	t.Helper()
	r, err := readRun("testdata/run.json")
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	dir := t.TempDir()
	var missing strings.Builder
	if err := write(r, dir, &missing); err != nil {
		t.Fatal(err)
	}
	t.Log(missing.String())
	files := make(map[string][]byte)
	for _, p := range pages(r) {
		content, err := os.ReadFile(filepath.Join(dir, p.file))
		if err == nil {
			files[p.file] = content
		} else if !strings.Contains(missing.String(), p.file+" is not drawn") {
			t.Errorf("%v, and nothing is said of it", err)
		}
	}
	return files
}

func TestPlots(t *testing.T) {
	first, second := written(t, nil), written(t, nil)
	if len(first) != 2 {
		t.Errorf("%d files are drawn, want the two whose works there are", len(first))
	}
	for name, svg := range first {
		if !bytes.Equal(svg, second[name]) {
			t.Errorf("%s: the same run gives another picture", name)
		}
		if err := wellFormed(svg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range []string{"prefers-color-scheme: dark", "spliceway packet", "24 November 2026", "fill:#24292F"} {
			if !bytes.Contains(svg, []byte(want)) {
				t.Errorf("%s: no %q", name, want)
			}
		}
		if n := len(svg); n > 60_000 {
			t.Errorf("%s has %d bytes", name, n)
		}
	}
	// A bar's value is the median of the rounds; a stack's the sum of its parts.
	if svg := first["connections.svg"]; !bytes.Contains(svg, []byte(">4321<")) || bytes.Contains(svg, []byte(">9999<")) {
		t.Error("connections.svg does not show the medians")
	}
	if svg := first["memory.svg"]; !bytes.Contains(svg, []byte(">3.50<")) {
		t.Error("memory.svg does not show the sum of a flow's memory")
	}
}

func TestAFigureThatIsMissingIsNotDrawn(t *testing.T) {
	files := written(t, func(r *run) {
		for i := range r.Samples {
			if r.Samples[i].Work == "new TLS connections, small hello" {
				delete(r.Samples[i].Figures, "per second")
			}
		}
	})
	if _, ok := files["connections.svg"]; ok {
		t.Error("a page is drawn although one of its works was not measured")
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{9, 1, 2}, spread{1, 2, 9}},
		{[]float64{4, 1, 2, 9}, spread{1, 3, 9}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%v: got %v, want %v", c.values, got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 123456: "123456", 45.06: "45.1", 7.125: "7.12", 0.2154: "0.215", 0.0004: "0.000"} {
		if got := number(v); got != want {
			t.Errorf("%v: got %q, want %q", v, got, want)
		}
	}
}

func wellFormed(svg []byte) error {
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("not well formed: %w", err)
		}
	}
}
