// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"time"
)

// Termination is an endpoint's tlsTermination: the agent does the TLS handshake with
// its clients. Paths of files are absolute, or relative to the directory of the
// agent's file.
type Termination struct {
	// Certificates are what the endpoint shows its clients. Of several, the one is
	// taken that has the name the client asked for, and that the client can check;
	// if several are left, ECDSA before RSA, then the first.
	Certificates []Certificate `yaml:"certificates"`
	// ACME has the certificate obtained from Config.ACME, for the endpoint's name,
	// which must not be a wildcard. Certificates must be empty then.
	ACME bool `yaml:"acme"`
	// MinVersion and MaxVersion are "1.2" or "1.3". Defaults "1.2", "1.3".
	MinVersion string `yaml:"minVersion"`
	MaxVersion string `yaml:"maxVersion"`
	// CipherSuites are the suites of TLS 1.2 that may be used, by their IANA names;
	// those of TLS 1.3 are not to be chosen. Empty: all with forward secrecy and
	// AEAD.
	CipherSuites []string `yaml:"cipherSuites"`
	// Curves are the key exchanges that may be used, by their names in crypto/tls:
	// X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024, X25519, CurveP256,
	// CurveP384, CurveP521. Empty: all of them but CurveP521's, post-quantum first.
	Curves []string `yaml:"curves"`
	// ALPN are the protocols that are offered, in the order of preference. A client
	// that offers others only is refused. Empty: none is negotiated.
	ALPN []string `yaml:"alpn"`
	// SessionTickets lets clients resume sessions. Default true.
	SessionTickets bool       `yaml:"sessionTickets"`
	MutualTLS      *MutualTLS `yaml:"mutualTLS"`

	// MinTLS and MaxTLS are MinVersion and MaxVersion, Suites and Groups are
	// CipherSuites and Curves, in the numbers of crypto/tls.
	MinTLS, MaxTLS uint16        `yaml:"-"`
	Suites         []uint16      `yaml:"-"`
	Groups         []tls.CurveID `yaml:"-"`
	// Pos is where the key stands.
	Pos Position `yaml:"-"`
}

// Certificate is one certificate with its key, or a directory of such.
type Certificate struct {
	// CertFile is PEM: the certificate, then what is between it and the root.
	CertFile string `yaml:"certFile"`
	// KeyFile is PEM: PKCS #8, PKCS #1 or SEC 1. Empty: the key is in CertFile.
	KeyFile string `yaml:"keyFile"`
	// Directory stands for all the certificates in it, each with its key, which
	// are found by their content: names of files do not matter.
	Directory string `yaml:"directory"`
	// OCSPFile is a response to staple, DER.
	OCSPFile string `yaml:"ocspFile"`
	// OCSP is "" or "fetch": ask the certificate's responder, and staple that.
	OCSP string `yaml:"ocsp"`

	// CertPEM and KeyPEM stand in for the files, where they come from an object: From.
	CertPEM, KeyPEM []byte   `yaml:"-"`
	From            string   `yaml:"-"`
	Pos             Position `yaml:"-"`
}

// MutualTLS is about certificates of clients.
type MutualTLS struct {
	// Mode is "require-and-verify" (the default), "require-any" (any certificate
	// will do, none will not) or "request" (what comes is not verified).
	Mode string `yaml:"mode"`
	// CAFiles are PEM: whose certificates are good.
	CAFiles []string `yaml:"caFiles"`
	// CRLFiles are PEM or DER: certificates in them are refused, and all of an
	// authority whose list is out of date.
	CRLFiles []string `yaml:"crlFiles"`

	// CAPEM stands in for CAFiles, where it comes from an object.
	CAPEM []byte   `yaml:"-"`
	Pos   Position `yaml:"-"`
}

// UpstreamTLS is how the agent speaks TLS to the upstreams of an endpoint that
// terminates it, where their URL is tls://.
type UpstreamTLS struct {
	// InsecureSkipVerify takes any certificate. Default false.
	InsecureSkipVerify bool `yaml:"insecureSkipVerify"`
	// CAFile is PEM: who vouches for the upstream. Empty: the system's CAs.
	CAFile string `yaml:"caFile"`
	// ServerName is the SNI, and the name that the certificate must have. Empty:
	// the host of the target's URL.
	ServerName string `yaml:"serverName"`
	// CertFile and KeyFile are the agent's own certificate, for upstreams that ask;
	// as in Certificate.
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
	// MinVersion is "1.2" (default) or "1.3".
	MinVersion string `yaml:"minVersion"`

	MinTLS uint16 `yaml:"-"`
	// CAPEM, CertPEM and KeyPEM stand in for the files, where they come from objects.
	CAPEM, CertPEM, KeyPEM []byte `yaml:"-"`
	// SANs are names ("DNS:a.b", "URI:spiffe://a/b") of which the certificate must have
	// one, instead of ServerName.
	SANs []string `yaml:"-"`
	Pos  Position `yaml:"-"`
}

// ACME says where certificates come from by themselves (RFC 8555).
type ACME struct {
	// DirectoryURL is the authority's. Default: Let's Encrypt's.
	DirectoryURL string `yaml:"directoryURL"`
	// AcceptTerms says that the operator agrees to the authority's terms: needed.
	AcceptTerms bool `yaml:"acceptTerms"`
	// Email is for the authority, which may write of trouble; empty: none.
	Email string `yaml:"email"`
	// Cache is the directory of keys and certificates, mode 0700. Default
	// /var/lib/spliceway/acme.
	Cache string `yaml:"cache"`
	// CAFile is PEM: who vouches for DirectoryURL. Empty: the system's CAs.
	CAFile string `yaml:"caFile"`
	// HTTPAddress answers HTTP-01 challenges, at port 80 as the world sees it:
	// host:port or :port. Everything else there is redirected to https. Empty:
	// TLS-ALPN-01 alone, at the endpoint's own port, 443 as the world sees it.
	HTTPAddress string `yaml:"httpAddress"`
	// RenewBefore is how long before its end a certificate is renewed. 0: a third
	// of its life, 30 days at most. None is renewed before a quarter of its life is
	// over.
	RenewBefore time.Duration `yaml:"renewBefore"`
	// ExternalAccount binds to an account at the authority, where it wants that.
	ExternalAccount ExternalAccount `yaml:"externalAccount"`
}

// ExternalAccount is RFC 8555, section 7.3.4.
type ExternalAccount struct {
	KeyID string `yaml:"keyID"`
	// HMACKeyFile has the key in base64url.
	HMACKeyFile string `yaml:"hmacKeyFile"`
}

// SessionTickets are the keys that tickets are sealed with. Each endpoint has its own,
// made from these.
type SessionTickets struct {
	// KeyFile shares keys between hosts: one a line, 32 bytes or more in base64. The
	// first seals, all open. Empty: keys of this process's own.
	KeyFile string `yaml:"keyFile"`
	// Rotation is how long a key of the process's own seals; it opens for twice as
	// long again. 1m or more; default 12h.
	Rotation time.Duration `yaml:"rotation"`
}
