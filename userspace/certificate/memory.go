// SPDX-License-Identifier: Apache-2.0

package certificate

import (
	"errors"
	"fmt"
)

func (s *Source) inMemory() bool { return s.CertPEM != nil || s.KeyPEM != nil }

// read returns the contents of a certificate and its key, and what they are called in
// errors.
func (s *Source) read() (certName, keyName string, cert, key []byte, err error) {
	if s.inMemory() {
		if key = s.KeyPEM; key == nil {
			key = s.CertPEM
		}
		switch {
		case len(s.CertPEM) == 0:
			err = errors.New("the certificate is empty, expected PEM (-----BEGIN ...)")
		case len(key) == 0:
			err = errors.New("the private key is empty, expected PEM (-----BEGIN ...)")
		}
		return "certificate", "key", s.CertPEM, key, err
	}
	keyFile := s.KeyFile
	if keyFile == "" {
		keyFile = s.CertFile
	}
	if cert, err = readFile(s.CertFile); err != nil {
		return "", "", nil, nil, fmt.Errorf("certificate: %w", err)
	}
	if key, err = readFile(keyFile); err != nil {
		return "", "", nil, nil, fmt.Errorf("key: %w", err)
	}
	return s.CertFile, keyFile, cert, key, nil
}
