// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/spliceway/spliceway/userspace/telemetry"
	"github.com/spliceway/spliceway/userspace/terminate"
)

// The PROXY protocol, https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt:
// version 1 is a line of at most 107 bytes, version 2 has a header of 16 bytes
// that tells the length of what follows.
const (
	maxV1       = 107
	v2Header    = 16
	maxV2       = 4 << 10 // ours: TLVs beyond it come from no proxy that exists
	v1Signature = "PROXY "
	v2Signature = "\r\n\r\n\x00\r\nQUIT\n"
)

var errNoProxyHeader = errors.New("no PROXY header from a trusted network")

// proxyHeaderLength finds the end of the header at the start of b. need > 0: it
// takes at least so many bytes to tell.
func proxyHeaderLength(b []byte) (length, need int, err error) {
	switch {
	case startsLike(b, v1Signature):
		if end := bytes.Index(b[:min(len(b), maxV1)], []byte("\r\n")); end >= 0 {
			return end + 2, 0, nil
		}
		if len(b) >= maxV1 {
			return 0, 0, errors.New("PROXY header v1 does not end")
		}
		return 0, len(b) + 1, nil
	case startsLike(b, v2Signature):
		if len(b) < v2Header {
			return 0, v2Header, nil
		}
		length = v2Header + int(binary.BigEndian.Uint16(b[14:16]))
		if length > maxV2 {
			return 0, 0, fmt.Errorf("PROXY header v2 of %d bytes is over %d", length, maxV2)
		}
		if len(b) < length {
			return 0, length, nil
		}
		return length, 0, nil
	}
	return 0, 0, errNoProxyHeader
}

// startsLike tells whether b starts with s, as far as it goes.
func startsLike(b []byte, s string) bool {
	n := min(len(b), len(s))
	return string(b[:n]) == s[:n]
}

// decodeProxyHeader reads a whole header. Invalid addresses and no error: the
// header speaks of no connection (LOCAL, UNKNOWN).
func decodeProxyHeader(r *bufio.Reader) (from, to netip.AddrPort, err error) {
	// PROXY of an unspecified family (0x21 0x00) is what a proxy sends of a client
	// that has no IP address. Section 2.2 leaves it to the receiver to take it, and
	// the library does not.
	if b, err := r.Peek(v2Header); err == nil && string(b[:14]) == v2Signature+"\x21\x00" {
		return from, to, nil
	}
	h, err := proxyproto.Read(r)
	if err != nil {
		return from, to, fmt.Errorf("read PROXY header: %w", err)
	}
	if h.Command.IsLocal() || h.TransportProtocol == proxyproto.UNSPEC {
		return from, to, nil
	}
	src, dst, ok := h.TCPAddrs()
	if !ok {
		return from, to, fmt.Errorf("read PROXY header: not TCP (transport %#x)", byte(h.TransportProtocol))
	}
	return unmapped(src), unmapped(dst), nil
}

func unmapped(a *net.TCPAddr) netip.AddrPort {
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// proxyHeader builds the header for a backend, nil where none is wanted. Version 2
// carries the name that the client asked for (authority), the ALPN protocol (the one
// that was negotiated; where TLS passes through the first that the client offers, since
// a gateway does not learn which one the backend picks), the connection's ID from the
// log (unique ID), and where TLS is terminated what was agreed and who the client is.
func (c *conn) proxyHeader() []byte {
	v := c.target.ProxyHeader
	if v == 0 {
		return nil
	}
	header := proxyproto.HeaderProxyFromAddrs(byte(v), net.TCPAddrFromAddrPort(c.from), net.TCPAddrFromAddrPort(c.to))
	if v == 2 {
		tlvs := []proxyproto.TLV{{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte(c.rec.ID)}}
		if c.rec.SNI != "" {
			tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(c.rec.SNI)})
		}
		if p := c.protocol(); p != "" {
			tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_ALPN, Value: []byte(p)})
		}
		if c.rec.TLS != nil {
			if tlv, err := tlsTLV(c.rec.TLS, c.identity).Marshal(); err == nil {
				tlvs = append(tlvs, tlv)
			}
		}
		// Fails for a value over 64 KiB only: an SNI has at most 253 bytes,
		// a protocol name 255, a common name is cut.
		_ = header.SetTLVs(tlvs)
	}
	b, err := header.Format()
	if err != nil {
		return nil
	}
	return b
}

// protocol is the ALPN protocol as far as it is known.
func (c *conn) protocol() string {
	switch {
	case c.rec.TLS != nil:
		return c.rec.TLS.ALPN
	case len(c.rec.ALPN) > 0:
		return c.rec.ALPN[0]
	}
	return ""
}

// maxCommonName bounds what a client's certificate puts into the header.
const maxCommonName = 1 << 10

// tlsTLV is PP2_TYPE_SSL (section 2.2.6): verify is 0 for a certificate that is good,
// and 1 for none, or one that nobody looked at. The TLVs of algorithms are about the
// gateway's certificate, not the client's, and are left out.
func tlsTLV(t *telemetry.TLS, id *terminate.Identity) tlvparse.PP2SSL {
	ssl := tlvparse.PP2SSL{Client: tlvparse.PP2_BITFIELD_CLIENT_SSL, Verify: 1}
	add := func(kind proxyproto.PP2Type, v string) {
		if v != "" {
			ssl.TLV = append(ssl.TLV, proxyproto.TLV{Type: kind, Value: []byte(v)})
		}
	}
	add(proxyproto.PP2_SUBTYPE_SSL_VERSION, "TLSv"+t.Version)
	add(proxyproto.PP2_SUBTYPE_SSL_CIPHER, t.Cipher)
	if id == nil {
		return ssl
	}
	ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_SESS
	if !t.Resumed {
		ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN
	}
	if id.Verified {
		ssl.Verify = 0
	}
	add(proxyproto.PP2_SUBTYPE_SSL_CN, id.CommonName[:min(len(id.CommonName), maxCommonName)])
	return ssl
}

// trusted tells whether addr is in one of the networks.
func trusted(networks []netip.Prefix, addr netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}
