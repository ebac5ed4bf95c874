// SPDX-License-Identifier: Apache-2.0

// Package guest is what the two sides of a test kernel agree on: command kernel,
// which builds and boots it, and command init, which is all that runs in it. The
// plan goes in as a file; events come out of the second serial port, one JSON
// object a line.
package guest

import "time"

// Paths in the guest.
const (
	PlanFile = "/plan.json"
	Events   = "/dev/ttyS1" // the first serial port is the kernel's console
)

// Plan is what init has to do, in this order.
type Plan struct {
	Modules  []Module  `json:"modules"`
	Packages []Package `json:"packages"`
}

// Module is a kernel module to load.
type Module struct {
	File    string `json:"file"`
	Options string `json:"options,omitempty"` // as on insmod's command line
}

// Package is a test binary to run.
type Package struct {
	Name   string   `json:"name"` // as the caller named it: ./loader
	Binary string   `json:"binary"`
	Dir    string   `json:"dir"` // the working directory
	Args   []string `json:"args"`
}

// Event is something that happened in the guest. The last one has Done or Error.
type Event struct {
	Booted  string `json:"booted,omitempty"` // the kernel's release, after set-up
	Package string `json:"package,omitempty"`
	Output  string `json:"output,omitempty"` // a line of the package's test, without its end
	Exit    *Exit  `json:"exit,omitempty"`   // the package's test has ended
	Error   string `json:"error,omitempty"`  // init cannot go on
	Done    bool   `json:"done,omitempty"`
}

// Exit is how a test binary ended.
type Exit struct {
	Status string        `json:"status"` // "exit status 1", "signal: killed"; empty: 0
	Took   time.Duration `json:"took"`   // by the guest's clock
}
