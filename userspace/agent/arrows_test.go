// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/spliceway/spliceway/"

// arrows is who may import whom inside the module, tests left out, each with its
// reason. A package that is not here, or an import that is not in its line, fails.
var arrows = map[string]struct {
	imports []string
	why     string
}{
	"bpf":                    {nil, "generated from C"},
	"maps":                   {[]string{"bpf"}, "the only code that touches a map"},
	"loader":                 {[]string{"bpf", "maps"}, "loads programs, fills maps"},
	"userspace/sock":         {nil, "system calls only"},
	"userspace/clienthello":  {nil, "pure"},
	"userspace/route":        {nil, "pure"},
	"userspace/gateway":      {nil, "pure: Gateway API objects in, what to serve and their status out"},
	"userspace/config":       {nil, "pure: a file in, a value out"},
	"userspace/policy":       {[]string{"userspace/config"}, "pure: the traffic policy language; says where its mistakes are as config does"},
	"userspace/api/v1alpha1": {nil, "types of objects"},
	"userspace/manifest":     {[]string{"userspace/api/v1alpha1", "userspace/config"}, "files in, objects out; says where their mistakes are as config does"},
	"userspace/plan": {[]string{"userspace/api/v1alpha1", "userspace/config", "userspace/gateway", "userspace/manifest", "userspace/policy", "userspace/route"},
		"pure: a file and its manifests in, what to serve and each object's status out"},
	"userspace/cluster": {[]string{"userspace/api/v1alpha1", "userspace/config", "userspace/manifest"},
		"watches objects and writes their status; reads endpoint objects as manifest does"},
	"userspace/telemetry":   {nil, "words and metrics, for everyone"},
	"userspace/certificate": {nil, "files in, certificates out"},
	"userspace/acme":        {[]string{"userspace/certificate"}, "obtains certificates; tells of them as certificate does"},
	"userspace/terminate":   {[]string{"userspace/certificate", "userspace/telemetry"}, "how handshakes are to be done, and why they fail; is given certificates"},
	"userspace/admin":       {nil, "is given handlers"},
	"userspace/control":     {[]string{"userspace/splice"}, "is given what it serves"},
	"userspace/upstream":    {[]string{"userspace/sock", "userspace/tlsconn"}, "dials; tells its observer, counts nothing itself"},
	"userspace/splice":      {[]string{"userspace/sock", "userspace/telemetry"}, "moves bytes between two sockets, reports how it ended"},
	"userspace/packet": {[]string{"loader", "maps", "userspace/sock", "userspace/splice", "userspace/telemetry"},
		"arms flows, accounts for them; its way to the kernel is loader"},
	"userspace/web":     {[]string{"userspace/route"}, "is given connections, serves their requests"},
	"userspace/tlsconn": {[]string{"userspace/sock"}, "TLS over these sockets"},
	"userspace/proxy": {[]string{"userspace/clienthello", "userspace/policy", "userspace/route", "userspace/sock", "userspace/splice", "userspace/telemetry", "userspace/terminate", "userspace/tlsconn", "userspace/upstream", "userspace/web"},
		"leads a connection through all of these; knows no configuration file and no BPF"},
	"userspace/agent": {[]string{"loader", "userspace/acme", "userspace/admin", "userspace/certificate", "userspace/clienthello", "userspace/cluster", "userspace/config", "userspace/control", "userspace/manifest", "userspace/packet", "userspace/plan", "userspace/policy", "userspace/proxy", "userspace/route",
		"userspace/sock", "userspace/splice", "userspace/telemetry", "userspace/terminate", "userspace/upstream", "userspace/web"}, "the composition root"},
	"cmd/spliceway": {[]string{"loader", "testenv/demo", "userspace/agent", "userspace/config", "userspace/control", "userspace/packet", "userspace/plan", "userspace/policy", "userspace/route", "userspace/splice", "userspace/telemetry"},
		"the command line"},
	"testenv":                               {nil, "knows nothing of the agent, so that any relay can be put to the test"},
	"testenv/demo":                          {[]string{"testenv", "userspace/telemetry"}, "runs the agent as a child, reads its log"},
	"testenv/e2e":                           {nil, "tests only"},
	"testenv/bench":                         {[]string{"testenv"}, "measures any relay"},
	"testenv/kernel":                        {[]string{"testenv/kernel/guest"}, "boots other kernels; what is tested there goes in as binaries"},
	"testenv/kernel/init":                   {[]string{"testenv/kernel/guest"}, "all that runs in them besides the tests"},
	"testenv/kernel/guest":                  {nil, "what these two agree on"},
	"userspace/clienthello/internal/record": {[]string{"userspace/clienthello"}, "a tool that recorded the hellos of the tests"},
}

// kernelLibraries are for loader and what is below it, and for the test environment.
var kernelLibraries = []string{"github.com/cilium/ebpf", "github.com/vishvananda/netlink"}

func TestImportsFollowTheArrows(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list packages: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], module)
		allowed, ok := arrows[pkg]
		if !ok {
			t.Errorf("%s is not in the table", pkg)
			continue
		}
		for _, imported := range fields[1:] {
			if own, ok := strings.CutPrefix(imported, module); ok && !slices.Contains(allowed.imports, own) {
				t.Errorf("%s imports %s, which its line does not allow (%s)", pkg, own, allowed.why)
			}
			if strings.HasPrefix(pkg, "userspace/") && slices.ContainsFunc(kernelLibraries, func(l string) bool { return strings.HasPrefix(imported, l) }) {
				t.Errorf("%s imports %s: the way to the kernel is package loader", pkg, imported)
			}
		}
	}
}
