// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/spliceway/spliceway/testenv"
)

// document is docs/traffic-policy.md.
func document(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/traffic-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// examples are the document's, with keys and certificates that are some.
func examples(t *testing.T) (all []*Policy) {
	t.Helper()
	certificate, key := testenv.MustPair(t, "a.test")
	in := func(pem string) string {
		return strings.ReplaceAll(strings.TrimSpace(pem), "\n", "\n        ")
	}
	stub := regexp.MustCompile(`-----BEGIN (CERTIFICATE|PRIVATE KEY)-----\n\s*-----END (CERTIFICATE|PRIVATE KEY)-----`)
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(document(t), -1) {
		text := stub.ReplaceAllStringFunc(m[1], func(s string) string {
			if strings.Contains(s, "KEY") {
				return in(key)
			}
			return in(certificate)
		})
		p, warnings, err := parse(t, text)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%v %v in\n%s", err, warnings, m[1])
		}
		all = append(all, p)
	}
	return all
}

func TestTheDocumentsExamples(t *testing.T) {
	all := examples(t)
	if len(all) != 2 {
		t.Fatalf("%d examples", len(all))
	}
	for _, tt := range []struct {
		client string
		alpn   []string
		want   []string
	}{
		{"10.1.2.3:1", nil, []string{"log map[client:map[ip:10.1.2.3 ja4:t13d] tenant:a]", "forward to tls://a.internal:8443", "forward to tls://common.internal:8443"}},
		{"192.0.2.1:1", nil, []string{"log map[client:map[ip:192.0.2.1 ja4:t13d] tenant:a]", `close by deny of "no old tools, and nobody unknown after hours"`}},
		{"192.0.2.1:1", []string{"h2"}, []string{"log map[client:map[ip:192.0.2.1 ja4:t13d] tenant:a]", "forward to tls://a.internal:8443", "forward to tls://common.internal:8443"}},
		{"10.66.0.1:1", nil, []string{`close by restrict-ips of "office and VPN only"`}},
		{"198.51.100.1:1", nil, []string{`close by restrict-ips of "office and VPN only"`}},
	} {
		c := connection()
		c.Client, c.OfferedALPN = netip.MustParseAddrPort(tt.client), tt.alpn
		if diff := cmp.Diff(tt.want, run(all[0], c)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.client, diff)
		}
	}
	if got := run(all[1], connection()); !cmp.Equal(got, []string{"terminate", "close by deny of 1"}) {
		t.Errorf("termination: %q", got)
	}
	if !all[0].Terminating() {
		t.Error("the example lets connections get past it")
	}
}

// rows are the first cells of the tables in a part of the document: what is in backquotes.
func rows(t *testing.T, heading string) (all []string) {
	t.Helper()
	_, rest, ok := strings.Cut(document(t), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no %s", heading)
	}
	level := strings.Repeat("#", strings.Count(heading, "#"))
	if i := regexp.MustCompile(`\n#{2,` + string('0'+rune(len(level))) + `} `).FindStringIndex(rest); i != nil {
		rest = rest[:i[0]]
	}
	for _, m := range regexp.MustCompile("(?m)^\\| (`.*?`) \\|").FindAllStringSubmatch(rest, -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(m[1], -1) {
			all = append(all, name[1])
		}
	}
	return all
}

func sameNames(t *testing.T, what string, document, code []string) {
	t.Helper()
	slices.Sort(document)
	slices.Sort(code)
	if diff := cmp.Diff(slices.Compact(code), document); diff != "" {
		t.Errorf("%s: -code +document:\n%s", what, diff)
	}
}

func TestTheDocumentHasAllActions(t *testing.T) {
	var named []string
	for _, m := range regexp.MustCompile("(?m)^### `(.*)`$").FindAllStringSubmatch(document(t), -1) {
		named = append(named, m[1])
	}
	sameNames(t, "actions", named, actionNames())
	// The fields of each are what is expected when there is another.
	for _, action := range named {
		_, _, err := parse(t, "on_tcp_connect: [{actions: [{type: "+action+", config: {zzz: 1}}]}]")
		if err == nil {
			t.Fatalf("%s takes zzz", action)
		}
		var fields []string
		if m := regexp.MustCompile(`unknown key "zzz".*; expected (.*)`).FindStringSubmatch(err.Error()); m != nil {
			fields = strings.Split(m[1], ", ")
		}
		sameNames(t, action, rows(t, "### `"+action+"`"), fields)
	}
}

func TestTheDocumentHasAllVariables(t *testing.T) {
	var named []string
	for _, name := range rows(t, "## Variables") {
		certificates := []string{""}
		if strings.HasPrefix(name, "CERT.") {
			certificates = []string{"conn.tls.client", "conn.tls.server", "actions.ngrok.terminate_tls.client", "actions.ngrok.terminate_tls.server"}
		}
		for _, c := range certificates {
			of := strings.Replace(name, "CERT", c, 1)
			if strings.Contains(of, "NAME") {
				named = append(named, strings.Replace(of, "NAME", "issuer", 1))
				of = strings.Replace(of, "NAME", "subject", 1)
			}
			named = append(named, of)
		}
	}
	sameNames(t, "variables", named, slices.Collect(maps.Keys(variables)))
}

// TestTheDocumentsTypes are those of the variables.
func TestTheDocumentsTypes(t *testing.T) {
	types := map[string]string{
		"string": "string", "int": "int", "bool": "bool", "timestamp": "timestamp", "list(string)": "list of strings",
		"map(string, dyn)": "map", "list(map(string, dyn))": "list of maps", "google.protobuf.Timestamp": "timestamp",
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z].*?|CERT.*?)` \\| ([a-z ]+) \\|").FindAllStringSubmatch(document(t), -1) {
		name := strings.NewReplacer("CERT", "conn.tls.client", "NAME", "subject").Replace(m[1])
		if v, ok := variables[name]; ok && types[v.of.String()] != m[2] {
			t.Errorf("%s: %s in the document, %s in the code", name, m[2], v.of)
		}
	}
}

func TestTheDocumentHasAllFunctions(t *testing.T) {
	var named, code []string
	for _, call := range rows(t, "## Functions") {
		name, _, _ := strings.Cut(call, "(")
		if of, method, ok := strings.Cut(name, "."); ok && slices.Contains([]string{"s", "l", "t", "ip"}, of) {
			name = method
		}
		named = append(named, name)
	}
	for name := range environment().Functions() {
		// Operators, and what macros become.
		if !strings.ContainsAny(name, "@_!") && name != "in" {
			code = append(code, name)
		}
	}
	for _, m := range environment().Macros() {
		name := m.Function()
		if name == "greatest" || name == "least" {
			name = "math." + name
		}
		code = append(code, name)
	}
	sameNames(t, "functions", named, code)
}
