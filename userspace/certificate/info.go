// SPDX-License-Identifier: Apache-2.0

// Package certificate is the certificates that the agent shows: read from files, kept
// fresh, chosen for each handshake. It does no handshake, and verifies nobody.
package certificate

import "time"

// Info is what may be told of a certificate: nothing of its key but the kind.
type Info struct {
	// Origin is the certificate's file, Source.Where of one from memory, or "acme".
	Origin string
	// Names are its DNS names and IP addresses.
	Names               []string
	Subject, Issuer     string // RFC 2253
	Serial              string // hexadecimal
	KeyType             string // "ECDSA P-256", "RSA 2048", "Ed25519"
	NotBefore, NotAfter time.Time
}
