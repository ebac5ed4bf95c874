// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/telemetry"
)

// Failure tells why a handshake failed: a word, and a line for the log. err is that of
// tls.Conn's Handshake.
func Failure(err error) (telemetry.HandshakeFailure, string) {
	if c, ok := errors.AsType[*certificateError](err); ok { // first: a time-out may be in it
		return telemetry.HandshakeNoCertificate, c.Error()
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return telemetry.HandshakeTimeout, "the handshake took longer than timeouts.handshake"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return telemetry.HandshakeClosed, "closed before the handshake was over"
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return telemetry.HandshakeClosed, "reset before the handshake was over"
	}
	if r, ok := errors.AsType[*revokedError](err); ok {
		if r.unknown {
			return telemetry.HandshakeRevocationUnknown, err.Error()
		}
		return telemetry.HandshakeRevoked, err.Error()
	}
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return verification(v)
	}
	if o, ok := errors.AsType[*net.OpError](err); ok && o.Op == "remote error" {
		return telemetry.HandshakeAlert, "the other side gave up: " + strings.TrimPrefix(o.Err.Error(), "tls: ")
	}
	return byText(err)
}

// verification is about a certificate that did not pass.
func verification(v *tls.CertificateVerificationError) (telemetry.HandshakeFailure, string) {
	failure := telemetry.HandshakeBadCertificate
	if _, ok := errors.AsType[x509.UnknownAuthorityError](v.Err); ok {
		failure = telemetry.HandshakeUnknownCA
	} else if _, ok := errors.AsType[x509.HostnameError](v.Err); ok {
		failure = telemetry.HandshakeWrongName
	} else if _, ok := errors.AsType[sanError](v.Err); ok {
		failure = telemetry.HandshakeWrongName
	} else if i, ok := errors.AsType[x509.CertificateInvalidError](v.Err); ok && i.Reason == x509.Expired {
		failure = telemetry.HandshakeExpired
	}
	text := strings.TrimPrefix(v.Err.Error(), "x509: ")
	if h, ok := errors.AsType[x509.HostnameError](v.Err); ok && len(text) > shownText {
		text = fmt.Sprintf("not valid for %s", h.Host) // at the end of a list of all the names
	}
	text = short(text)
	if len(v.UnverifiedCertificates) == 0 {
		return failure, text
	}
	leaf := v.UnverifiedCertificates[0]
	text = fmt.Sprintf("certificate %s: %s", about(culprit(v.Err, leaf)), text)
	if culprit(v.Err, leaf) != leaf {
		text += ", for " + about(leaf)
	}
	return failure, text
}

// culprit is the certificate that err is about: not always the leaf, but an authority's that
// is out of date, say.
func culprit(err error, leaf *x509.Certificate) *x509.Certificate {
	if i, ok := errors.AsType[x509.CertificateInvalidError](err); ok && i.Cert != nil && !i.Cert.Equal(leaf) {
		return i.Cert
	}
	return leaf
}

// texts are what crypto/tls says in words alone.
var texts = []struct {
	part    string
	failure telemetry.HandshakeFailure
}{
	{"client offered only unsupported versions", telemetry.HandshakeProtocolVersion},
	{"client offered TLS version older than", telemetry.HandshakeProtocolVersion},
	{"server selected unsupported protocol version", telemetry.HandshakeProtocolVersion},
	{"inappropriate protocol fallback", telemetry.HandshakeProtocolVersion},
	{"no cipher suite supported by both", telemetry.HandshakeNoSharedCipher},
	{"peer doesn't support any of the certificate's signature algorithms", telemetry.HandshakeNoSharedCipher},
	{"peer doesn't support the certificate", telemetry.HandshakeNoSharedCipher},
	{"does not implement crypto.Signer", telemetry.HandshakeNoSharedCipher},
	{"unsupported signing key type (<nil>)", telemetry.HandshakeNoSharedCipher},
	{"no key exchanges supported by both", telemetry.HandshakeNoSharedGroup},
	{"no ECDHE curve supported by both", telemetry.HandshakeNoSharedGroup},
	{"unsupported application protocols", telemetry.HandshakeNoProtocol},
	{"did not request an application protocol", telemetry.HandshakeNoProtocol},
	{"unadvertised ALPN protocol", telemetry.HandshakeNoProtocol},
	{"did not select an ALPN protocol", telemetry.HandshakeNoProtocol},
	{"didn't provide a certificate", telemetry.HandshakeCertificateRequired},
	{"failed to parse client certificate", telemetry.HandshakeBadCertificate},
	{"failed to parse certificate from server", telemetry.HandshakeBadCertificate},
	{"invalid signature by the", telemetry.HandshakeBadCertificate},
	{"certificate used with invalid signature algorithm", telemetry.HandshakeBadCertificate},
	{"unsupported public key", telemetry.HandshakeBadCertificate},
	{"unsupported type of public key", telemetry.HandshakeBadCertificate},
	{"containing RSA key larger", telemetry.HandshakeBadCertificate},
	{"was never verified", telemetry.HandshakeBadCertificate},
	{"failed to sign handshake", telemetry.HandshakeInternal},
	{"internal error", telemetry.HandshakeInternal},
}

func byText(err error) (telemetry.HandshakeFailure, string) {
	text := err.Error()
	for _, t := range texts {
		if strings.Contains(text, t.part) {
			if t.failure == telemetry.HandshakeNoSharedCipher && (strings.Contains(text, "crypto.Signer") || strings.Contains(text, "<nil>")) {
				text = "no certificate of this endpoint is of a kind that the client takes"
			}
			return t.failure, strings.TrimPrefix(text, "tls: ")
		}
	}
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return telemetry.HandshakeClosed, "the connection broke before the handshake was over: " + errno.Error()
	}
	if o, ok := errors.AsType[*net.OpError](err); ok && o.Op == "local error" || strings.HasPrefix(text, "tls: ") {
		if ok {
			text = o.Err.Error()
		}
		return telemetry.HandshakeMalformed, strings.TrimPrefix(text, "tls: ")
	}
	return telemetry.HandshakeInternal, text
}
