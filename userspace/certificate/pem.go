// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// parsed is what a PEM file has.
type parsed struct {
	chain []*x509.Certificate
	keys  []crypto.Signer
}

// parse reads certificates and keys. No error quotes the content: it may be a key.
func parse(data []byte) (p parsed, err error) {
	blocks := 0
	for rest := data; ; blocks++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		switch {
		case b.Type == "CERTIFICATE":
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return parsed{}, fmt.Errorf("certificate %d cannot be read: %w", len(p.chain)+1, err)
			}
			p.chain = append(p.chain, c)
		case strings.HasSuffix(b.Type, "PRIVATE KEY"):
			k, err := parseKey(b)
			if err != nil {
				return parsed{}, err
			}
			p.keys = append(p.keys, k)
		}
	}
	if blocks == 0 {
		return parsed{}, noPEM(data)
	}
	// Decode passes over what is broken: a chain that was cut would be taken without
	// its end.
	if n := bytes.Count(data, []byte("-----BEGIN ")); n != blocks {
		return parsed{}, fmt.Errorf("%d of the %d PEM blocks in it are broken: was it cut?", n-blocks, n)
	}
	return p, nil
}

func noPEM(data []byte) error {
	switch {
	case len(data) == 0:
		return errors.New("the file is empty, expected PEM (-----BEGIN ...)")
	case data[0] == 0x30: // a SEQUENCE
		return errors.New("found DER, expected PEM (openssl x509 -inform DER, or openssl pkey -inform DER, converts it)")
	case strings.Contains(string(data), "-----BEGIN"):
		return errors.New("the PEM in it does not end (-----END ...): was it cut?")
	}
	return errors.New("found no PEM (-----BEGIN ...)")
}

// parseKey reads PKCS #8, PKCS #1 and SEC 1.
func parseKey(b *pem.Block) (crypto.Signer, error) {
	if b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errors.New("the private key is encrypted, and there is nobody to ask for the passphrase (openssl pkey -in FILE decrypts it)")
	}
	var key any
	var err error
	switch b.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(b.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("the private key (%s) cannot be read", b.Type)
	}
	switch key.(type) {
	case *rsa.PrivateKey, *ecdsa.PrivateKey, ed25519.PrivateKey:
		return key.(crypto.Signer), nil
	}
	return nil, fmt.Errorf("the private key (%T) is of a kind that TLS does not use: expected RSA, ECDSA or Ed25519", key)
}

// fits tells whether a key is that of a certificate.
func fits(key crypto.Signer, c *x509.Certificate) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(c.PublicKey)
}

func keyType(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	}
	return c.PublicKeyAlgorithm.String()
}
