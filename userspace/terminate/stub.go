// SPDX-License-Identifier: Apache-2.0
package terminate

import (
	"crypto/tls"
	"time"

	"github.com/spliceway/spliceway/userspace/telemetry"
)

type Certificates interface {
	Get(*tls.ClientHelloInfo) (*tls.Certificate, error)
}
type ClientAuth uint8

const (
	NoClientCert ClientAuth = iota
	Request
	RequireAny
	RequireAndVerify
)

type ServerOptions struct {
	Endpoint               string
	Certificates           Certificates
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16
	Curves                 []tls.CurveID
	ALPN                   []string
	ClientAuth             ClientAuth
	CAFiles, CRLFiles      []string
	Where                  string
	Tickets                *Tickets
	Now                    func() time.Time
}
type Server struct{ cfg *tls.Config }

func NewServer(o ServerOptions) (*Server, error) {
	return &Server{&tls.Config{GetCertificate: o.Certificates.Get, MinVersion: o.MinVersion, MaxVersion: o.MaxVersion, NextProtos: o.ALPN, CurvePreferences: o.Curves}}, nil
}
func (s *Server) Config() *tls.Config { return s.cfg }
func (s *Server) Files() []string     { return nil }
func (s *Server) Reload() error       { return nil }
func (s *Server) Warnings() []string  { return nil }
func (s *Server) Identity(cs tls.ConnectionState) *Identity { return nil }

type ClientOptions struct {
	CAFile, ServerName, CertFile, KeyFile string
	MinVersion                            uint16
	InsecureSkipVerify                    bool
	Where                                 string
}
type Client struct{ o ClientOptions }

func NewClient(o ClientOptions) (*Client, error) { return &Client{o}, nil }
func (c *Client) Config(host, alpn string) *tls.Config {
	return &tls.Config{ServerName: host, InsecureSkipVerify: c.o.InsecureSkipVerify}
}
func (c *Client) Files() []string    { return nil }
func (c *Client) Reload() error      { return nil }
func (c *Client) Warnings() []string { return nil }
func (c *Client) Expiry() (notAfter time.Time, file string, ok bool) { return }

type Tickets struct{}
type TicketOptions struct {
	KeyFile  string
	Rotation time.Duration
	Now      func() time.Time
}

func NewTickets(o TicketOptions) (*Tickets, error) { return &Tickets{}, nil }
func (t *Tickets) Files() []string                 { return nil }
func (t *Tickets) Reload() error                   { return nil }
func (t *Tickets) Warnings() []string              { return nil }

func Failure(err error) (f telemetry.HandshakeFailure, text string) {
	return telemetry.HandshakeInternal, err.Error()
}

type Identity struct {
	Subject, CommonName, Issuer, Serial, Fingerprint string
	SANs                                             []string
	SignatureAlgorithm, KeyAlgorithm                 string
	NotAfter                                         time.Time
	Verified                                         bool
}
