// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// ink is of text and lines: the style sheet turns it over in the dark.
var ink = color.NRGBA{R: 0x24, G: 0x29, B: 0x2f, A: 0xff}

// Bars, readable on white and on black: a shade for each part of a stack.
var (
	ours = []color.Color{rgb(0x0a7ea4), rgb(0x4fb3d1), rgb(0x9bd8ea)}
	bare = []color.Color{rgb(0x8b949e), rgb(0xa9b1b9), rgb(0xc7ccd1)}
	peer = []color.Color{rgb(0xb0793a), rgb(0xcf9f68), rgb(0xe6c9a2)}
)

func rgb(v uint32) color.Color {
	return color.NRGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 0xff}
}

func shades(subject string) []color.Color {
	switch {
	case subject == "direct":
		return bare
	case strings.HasPrefix(subject, "spliceway"):
		return ours
	}
	return peer
}

const (
	panelWidth = 350
	barHeight  = 15
	heading    = 46 // of the page, and below it the caption
	title      = 30 // of a panel
)

// pageSVG is the SVG of a page.
func pageSVG(r *run, p page) ([]byte, error) {
	rows := (len(p.panels) + p.columns - 1) / p.columns
	most := 0
	panels := make([][]*plot.Plot, rows)
	for i := range panels {
		panels[i] = make([]*plot.Plot, p.columns)
	}
	for i, one := range p.panels {
		drawn, bars, err := one.plot(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.work, err)
		}
		panels[i/p.columns][i%p.columns] = drawn
		most = max(most, bars)
	}
	width := vg.Length(panelWidth * p.columns)
	if p.columns == 1 {
		width = 2 * panelWidth // room for the caption
	}
	height := vg.Length(rows*(most*barHeight+title) + heading)
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	all.FillText(style(13, text.XLeft, text.YTop), vg.Point{X: 8, Y: height - 6}, p.title)
	all.FillText(style(7, text.XLeft, text.YBottom), vg.Point{X: 8, Y: 5}, r.caption())
	tiles := draw.Tiles{Rows: rows, Cols: p.columns, PadTop: 26, PadBottom: 18, PadLeft: 6, PadRight: 6, PadX: 10, PadY: 8}
	for i, c := range plot.Align(panels, tiles, all) {
		for j := range c {
			if panels[i][j] != nil {
				panels[i][j].Draw(c[j])
			}
		}
	}
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	return styled(out.Bytes())
}

// plot is a panel and how many bars it has.
func (p panel) plot(r *run) (drawn *plot.Plot, bars int, err error) {
	drawn = plot.New()
	drawn.BackgroundColor = nil
	drawn.Title.Text = p.title
	drawn.Title.TextStyle = style(9, text.XCenter, text.YTop)
	drawn.Title.Padding = 2
	drawn.HideX()
	var names []string
	greatest := 0.0
	subjects := r.measured(p)
	for i, subject := range subjects {
		at := float64(len(subjects) - 1 - i) // the first one on top
		end, err := p.bar(drawn, r, subject, at)
		if err != nil {
			return nil, 0, err
		}
		greatest = max(greatest, end)
		names = append([]string{subject}, names...)
	}
	drawn.NominalY(names...)
	drawn.Y.Tick.Label = style(8, text.XRight, text.YCenter)
	drawn.Y.LineStyle.Width, drawn.Y.Tick.Width, drawn.Y.Tick.Length = 0, 0, 0
	drawn.Y.Padding = 6
	drawn.X.Min, drawn.X.Max = 0, greatest*1.18 // room for the value
	drawn.Y.Min, drawn.Y.Max = -0.6, float64(len(names))-0.4
	return drawn, len(names), nil
}

// measured are the subjects that have the panel's figures.
func (r *run) measured(p panel) (names []string) {
	for _, s := range r.Subjects {
		if _, ok := r.figure(p.work, s.Name, p.parts[0]); ok {
			names = append(names, s.Name)
		}
	}
	return names
}

// bar draws a subject's and returns where it ends.
func (p panel) bar(drawn *plot.Plot, r *run, subject string, at float64) (end float64, err error) {
	var below *plotter.BarChart
	var last spread
	for i, part := range p.parts {
		last, _ = r.figure(p.work, subject, part)
		b, err := plotter.NewBarChart(plotter.Values{max(last.median, 0)}, barHeight-5)
		if err != nil {
			return 0, err
		}
		b.Horizontal, b.XMin, b.LineStyle.Width = true, at, 0
		b.Color = shades(subject)[i]
		if below != nil {
			b.StackOn(below)
		}
		drawn.Add(b)
		below = b
		end += max(last.median, 0)
	}
	value := end
	if len(p.parts) == 1 && last.greatest > last.least {
		l, err := plotter.NewLine(plotter.XYs{{X: last.least, Y: at}, {X: last.greatest, Y: at}})
		if err != nil {
			return 0, err
		}
		l.Color, l.Width = ink, 0.8
		drawn.Add(l)
		end = max(end, last.greatest)
	}
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: end, Y: at}}, Labels: []string{number(value)}})
	if err != nil {
		return 0, err
	}
	labels.TextStyle[0] = style(8, text.XLeft, text.YCenter)
	labels.Offset = vg.Point{X: 3}
	drawn.Add(labels)
	return end, nil
}

// number has three digits, or all that are before the point.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return fmt.Sprintf("%.*f", min(max(digits, 0), 3), v)
}

func style(size vg.Length, x text.XAlignment, y text.YAlignment) text.Style {
	font := plot.DefaultFont
	font.Variant, font.Size = "Sans", size
	return text.Style{Color: ink, Font: font, XAlign: x, YAlign: y, Handler: plot.DefaultTextHandler}
}

// The reader's colours and letters, where the file is shown as a picture.
const sheet = `<style>
text { font-family: -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif !important; }
@media (prefers-color-scheme: dark) {
  [style*="fill:#24292F"] { fill: #e6edf3 !important; }
  [style*="stroke:#24292F"] { stroke: #e6edf3 !important; }
}
</style>
`

// styled puts the style sheet into an SVG, behind its first tag.
func styled(svg []byte) ([]byte, error) {
	start := bytes.Index(svg, []byte("<svg"))
	end := -1
	if start >= 0 {
		end = bytes.IndexByte(svg[start:], '>')
	}
	if end < 0 {
		return nil, fmt.Errorf("the library has written no SVG")
	}
	at := start + end + 1
	return bytes.Join([][]byte{svg[:at], []byte("\n" + sheet), svg[at:]}, nil), nil
}
