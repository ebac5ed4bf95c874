// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHello(t *testing.T) {
	long := strings.Repeat("a", 60) + ".test"
	for name, c := range map[string]struct {
		serverName string
		options    HelloOptions
		minSize    int
	}{
		"of today is post-quantum":    {serverName: "a.test", minSize: 1400},
		"classical is short":          {serverName: "a.test", options: HelloOptions{Classical: true}},
		"TLS 1.2":                     {serverName: "a.test", options: HelloOptions{MaxTLS12: true}},
		"without SNI":                 {options: HelloOptions{NoSNI: true}},
		"with ALPN":                   {serverName: long, options: HelloOptions{ALPN: []string{"h2", "http/1.1"}}},
		"padded over several records": {serverName: "a.test", options: HelloOptions{Size: 61 << 10}, minSize: 61 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			hello := MustHello(t, c.serverName, c.options)
			if c.options.Size > 0 && len(payload(hello)) != c.options.Size {
				t.Errorf("size %d, want %d", len(payload(hello)), c.options.Size)
			}
			if len(hello) < c.minSize || c.options.Classical && len(hello) > 400 {
				t.Errorf("size %d is not as asked for", len(hello))
			}
			for _, size := range []int{1, 100, maxRecord} {
				split, err := SplitRecords(hello, size)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(payload(split), payload(hello)) {
					t.Errorf("split into %d bytes: another message", size)
				}
				info := readByServer(t, split)
				if info.ServerName != c.serverName {
					t.Errorf("split into %d bytes: name %q, want %q", size, info.ServerName, c.serverName)
				}
				if diff := cmp.Diff(c.options.ALPN, info.SupportedProtos); diff != "" {
					t.Errorf("split into %d bytes: ALPN differs (-want +got):\n%s", size, diff)
				}
			}
		})
	}
}

func TestHelloRefusesSizes(t *testing.T) {
	for _, size := range []int{1, 70000} {
		if _, err := Hello("a.test", HelloOptions{Size: size}); err == nil {
			t.Errorf("size %d was accepted", size)
		}
	}
}

// readByServer is what crypto/tls makes of the records.
func readByServer(t *testing.T, records []byte) *tls.ClientHelloInfo {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	server.SetDeadline(time.Now().Add(5 * time.Second)) // lest it wait for more
	go client.Write(records)
	stop := errors.New("stop")
	var got *tls.ClientHelloInfo
	err := tls.Server(server, &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		got = info
		client.Close() // nobody reads the alert
		return nil, stop
	}}).Handshake()
	if got == nil {
		t.Fatalf("crypto/tls refuses the hello: %v", err)
	}
	return got
}
