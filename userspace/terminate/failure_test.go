// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/spliceway/spliceway/testenv"
	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Why there is no certificate is not why the handshake failed.
func TestAReasonWithinAReason(t *testing.T) {
	p := newPKI(t)
	o := p.options()
	o.Certificates = one{err: fmt.Errorf("ask the authority: %w", context.DeadlineExceeded)}
	m := meet(t, mustServer(t, o).Config(), p.clientConfig())
	if got, text := Failure(m.server); got != telemetry.HandshakeNoCertificate || !strings.Contains(text, "ask the authority") {
		t.Errorf("got %s: %s", got, text)
	}
}

// A stranger chooses what is in a certificate, and so how long a line gets.
func TestLongCertificatesInShortTexts(t *testing.T) {
	p := newPKI(t)
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("n%d.%s.test", i, strings.Repeat("x", 40)))
	}
	names = append([]string{strings.Repeat("y", 5000)}, names...)
	long := p.issue(newCA(t), testenv.Leaf{Names: names, Client: true})
	m := meet(t, mustServer(t, p.mutual()).Config(), p.clientConfig(long))
	got, text := Failure(m.server)
	if got != telemetry.HandshakeUnknownCA || len(text) > 2000 || !strings.Contains(text, "n1.") || !strings.Contains(text, "and 993 more") {
		t.Errorf("got %s: %d bytes: %.300s", got, len(text), text)
	}
}

// The name that was asked for is told, however many others there are.
func TestAnUpstreamWithManyNames(t *testing.T) {
	p := newPKI(t)
	var names []string
	for i := range 90 {
		names = append(names, fmt.Sprintf("n%d.somewhere.test", i))
	}
	many := p.issue(p.ca, testenv.Leaf{Names: names})
	c, err := NewClient(ClientOptions{CAFile: p.caFile})
	if err != nil {
		t.Fatal(err)
	}
	m := meet(t, &tls.Config{Certificates: []tls.Certificate{many}}, c.Config("a.test", ""))
	if got, text := Failure(m.client); got != telemetry.HandshakeWrongName || !strings.Contains(text, "not valid for a.test") || len(text) > 1000 {
		t.Errorf("got %s: %s", got, text)
	}
}

func TestALongSerialNumberInAShortText(t *testing.T) {
	if text := about(&x509.Certificate{SerialNumber: new(big.Int).Lsh(big.NewInt(1), 1<<18)}); len(text) > 1000 {
		t.Errorf("%d bytes: %.300s", len(text), text)
	}
}
