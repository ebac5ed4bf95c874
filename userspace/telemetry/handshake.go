// SPDX-License-Identifier: Apache-2.0

package telemetry

// HandshakeFailure is why a TLS handshake failed, with a client or with an upstream.
type HandshakeFailure uint8

// The failures. The zero value is none.
const (
	HandshakeNone                HandshakeFailure = iota
	HandshakeTimeout                              // not over within timeouts.handshake
	HandshakeClosed                               // the peer closed or reset
	HandshakeProtocolVersion                      // no version in common
	HandshakeNoSharedCipher                       // no cipher suite, signature algorithm or certificate in common
	HandshakeNoSharedGroup                        // no key exchange in common
	HandshakeNoProtocol                           // no ALPN protocol in common
	HandshakeNoCertificate                        // the endpoint has none to show (yet)
	HandshakeCertificateRequired                  // the peer sent none
	HandshakeUnknownCA                            // the peer's certificate is of an unknown authority
	HandshakeExpired                              // it is out of date, or not valid yet
	HandshakeRevoked                              // it is in a CRL
	HandshakeRevocationUnknown                    // the CRL of its authority is out of date
	HandshakeWrongName                            // the upstream's certificate has another name
	HandshakeBadCertificate                       // it is wrong in another way
	HandshakeAlert                                // the peer gave up, with an alert
	HandshakeMalformed                            // the peer broke the protocol
	HandshakeInternal                             // the agent could not go on
	handshakeFailures
)

// String is the failure's label in logs and metrics.
func (f HandshakeFailure) String() string {
	return [handshakeFailures]string{
		"", "timeout", "closed", "protocol_version", "no_shared_cipher", "no_shared_group", "no_application_protocol", "no_certificate",
		"certificate_required", "unknown_ca", "certificate_expired", "certificate_revoked", "revocation_unknown", "wrong_name", "bad_certificate",
		"peer_alert", "malformed", "internal",
	}[f]
}
