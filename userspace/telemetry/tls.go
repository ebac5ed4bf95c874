// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"log/slog"
	"slices"
	"time"
)

// TLS is what a connection's record says of TLS that the agent terminates.
type TLS struct {
	Version   string // "1.3"
	Cipher    string // by its IANA name
	Group     string // of the key exchange, by its name in crypto/tls
	ALPN      string // negotiated
	Resumed   bool
	Handshake time.Duration    // how long it took
	Failure   HandshakeFailure // why there is no more than that
	Client    *ClientCertificate
	// UpstreamVersion and UpstreamCipher are of the TLS towards the upstream.
	UpstreamVersion, UpstreamCipher string
}

// ClientCertificate is the certificate that a client showed.
type ClientCertificate struct {
	Subject     string   // RFC 2253
	SANs        []string // "DNS:...", "URI:...", "email:...", "IP:..."
	Fingerprint string   // SHA-256 of the certificate, in hexadecimal
	Verified    bool
}

// Keys of the access line, where TLS is terminated.
const (
	KeyTLSVersion        = "tls_version"
	KeyTLSCipher         = "tls_cipher"
	KeyTLSGroup          = "tls_group"
	KeyTLSALPN           = "tls_alpn"
	KeyTLSResumed        = "tls_resumed"
	KeyHandshake         = "handshake_ms"
	KeyHandshakeFailure  = "handshake_failure"
	KeyClientSubject     = "client_cert_subject"
	KeyClientSANs        = "client_cert_sans"
	KeyClientFingerprint = "client_cert_fingerprint"
	KeyClientVerified    = "client_cert_verified"
	KeyUpstreamVersion   = "upstream_tls_version"
	KeyUpstreamCipher    = "upstream_tls_cipher"
)

// What a client's certificate may take of a line: names, and bytes of each and of the
// subject. A certificate may have megabytes of them.
const (
	maxLoggedSANs = 16
	maxLoggedName = 512
)

// cut is s up to maxLoggedName bytes.
func cut(s string) string {
	if len(s) > maxLoggedName {
		return s[:maxLoggedName] + "..."
	}
	return s
}

// attrs appends t's part of the line.
func (t *TLS) attrs(attrs []slog.Attr) []slog.Attr {
	text := func(key, v string) {
		if v != "" {
			attrs = append(attrs, slog.String(key, printable(v)))
		}
	}
	text(KeyTLSVersion, t.Version)
	text(KeyTLSCipher, t.Cipher)
	text(KeyTLSGroup, t.Group)
	text(KeyTLSALPN, t.ALPN)
	if t.Resumed {
		attrs = append(attrs, slog.Bool(KeyTLSResumed, true))
	}
	if c := t.Client; c != nil {
		text(KeyClientSubject, cut(c.Subject))
		if len(c.SANs) > 0 {
			names := slices.Clone(c.SANs[:min(len(c.SANs), maxLoggedSANs+1)])
			for i, n := range names {
				names[i] = cut(n)
			}
			attrs = append(attrs, slog.Any(KeyClientSANs, shown(names, maxLoggedSANs)))
		}
		text(KeyClientFingerprint, c.Fingerprint)
		attrs = append(attrs, slog.Bool(KeyClientVerified, c.Verified))
	}
	text(KeyUpstreamVersion, t.UpstreamVersion)
	text(KeyUpstreamCipher, t.UpstreamCipher)
	text(KeyHandshakeFailure, t.Failure.String())
	return attrs
}
