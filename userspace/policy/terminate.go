// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"

	"go.yaml.in/yaml/v3"
)

type terminateTLS struct {
	Termination
	leaf *x509.Certificate // of Certificate
}

var tlsVersions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func readTerminateTLS(r *reader, n *yaml.Node, path string) action {
	f := r.mapping(n, path, []string{
		"min_version", "max_version", "server_private_key", "server_certificate", "mutual_tls_certificate_authorities", "mutual_tls_verification_strategy",
	}, nil)
	a := &terminateTLS{Termination: Termination{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13, Pos: r.at(n)}}
	if f == nil {
		return a
	}
	if r.options.Terminates {
		r.wrong(n, path, "the endpoint has tlsTermination: TLS is terminated once, write it there or here")
	}
	a.MinVersion = r.tlsVersion(f["min_version"], join(path, "min_version"), a.MinVersion)
	a.MaxVersion = r.tlsVersion(f["max_version"], join(path, "max_version"), a.MaxVersion)
	if a.MinVersion > a.MaxVersion {
		r.wrong(f["min_version"], join(path, "min_version"), "min_version is above max_version")
	}
	a.Certificate, a.Key = r.pem(f["server_certificate"], join(path, "server_certificate")), r.pem(f["server_private_key"], join(path, "server_private_key"))
	switch {
	case (f["server_certificate"] == nil) != (f["server_private_key"] == nil):
		r.wrong(n, path, "server_certificate and server_private_key are needed both, or neither")
	case f["server_certificate"] == nil:
		r.wrong(n, path, "server_certificate and server_private_key are needed: there is no other certificate for this endpoint")
	case a.Certificate != nil && a.Key != nil:
		pair, err := tls.X509KeyPair(a.Certificate, a.Key)
		if err != nil {
			r.wrong(f["server_certificate"], path, "server_certificate and server_private_key are no pair: %v", err)
		}
		a.leaf = pair.Leaf
	}
	if n := f["mutual_tls_certificate_authorities"]; n != nil {
		at := join(path, "mutual_tls_certificate_authorities")
		list := r.list(n, at)
		if len(list) == 0 {
			r.wrong(n, at, "at least one CA is needed: without any, the system's would do")
		}
		for i, e := range list {
			ca := r.pem(e, index(at, i))
			if ca != nil && !x509.NewCertPool().AppendCertsFromPEM(ca) {
				r.wrong(e, index(at, i), "no certificate can be read from this PEM")
			}
			a.CAs = append(a.CAs, ca)
		}
		a.ClientAuth = RequireAndVerify
	}
	if n := f["mutual_tls_verification_strategy"]; n != nil {
		at := join(path, "mutual_tls_verification_strategy")
		switch r.oneOf(n, at, "require-and-verify", "require-any", "request") {
		case "require-and-verify":
			if len(a.CAs) == 0 {
				r.wrong(n, at, "mutual_tls_certificate_authorities is needed: by whom the certificates are to be")
			}
			a.ClientAuth = RequireAndVerify
		case "require-any":
			a.ClientAuth = RequireAny
		case "request":
			a.ClientAuth = Request
		}
	}
	return a
}

func (r *reader) tlsVersion(n *yaml.Node, path string, otherwise uint16) uint16 {
	if n != nil {
		if v := r.oneOf(n, path, "1.2", "1.3"); v != "" {
			return tlsVersions[v]
		}
	}
	return otherwise
}

// pem is a string of PEM. What it says never gets into a message.
func (r *reader) pem(n *yaml.Node, path string) []byte {
	if n == nil {
		return nil
	}
	s, ok := r.text(n, path)
	switch {
	case !ok:
	case strings.Contains(s, "${"):
		r.wrong(n, path, "PEM must be written out: it cannot be different from one connection to the next")
	default:
		if block, _ := pem.Decode([]byte(s)); block == nil {
			r.wrong(n, path, "expected PEM, which begins with -----BEGIN; an ID of ngrok's API means nothing here")
			return nil
		}
		return []byte(s)
	}
	return nil
}

func (*terminateTLS) kind() string      { return "terminate-tls" }
func (*terminateTLS) terminating() bool { return false }

func (a *terminateTLS) do(r *Run) (Step, bool) {
	r.shown = a.leaf
	return Step{Kind: Terminate, Termination: &a.Termination}, true
}
