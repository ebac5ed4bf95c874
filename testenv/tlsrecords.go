// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Content types, RFC 8446 section 5.1.
const (
	RecordAlert     = 21
	RecordHandshake = 22
	RecordData      = 23
)

// Records writes TLS records of any content type and size on a connection that
// crypto/tls did the handshake of: what no well-behaved peer sends. From then on nothing
// may be written by crypto/tls.
type Records struct {
	conn         net.Conn
	isClient     bool
	heard, lines bytes.Buffer // of the wire, until the server's random is known; the key log
	config       *tls.Config
	tls          *tls.Conn

	secret []byte // TLS 1.3
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
	tls13  bool
}

// NewRecords is a client's connection on raw, or a server's. It has AES-128-GCM with
// SHA-256 and no session tickets. The handshake is TLS's.
func NewRecords(raw net.Conn, config *tls.Config, isClient bool) *Records {
	r := &Records{conn: raw, isClient: isClient, config: config.Clone()}
	r.config.KeyLogWriter = &r.lines
	r.config.SessionTicketsDisabled = true
	r.config.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	if isClient {
		r.tls = tls.Client(&overheard{raw, &r.heard}, r.config)
	} else {
		r.tls = tls.Server(raw, r.config)
	}
	return r
}

// TLS is the connection as crypto/tls has it: for the handshake, and to read.
func (r *Records) TLS() *tls.Conn { return r.tls }

// Ready takes the keys over, once the handshake is done.
func (r *Records) Ready() error {
	state := r.tls.ConnectionState()
	switch {
	case state.CipherSuite == tls.TLS_AES_128_GCM_SHA256:
		r.tls13 = true
		label := "SERVER_TRAFFIC_SECRET_0"
		if r.isClient {
			label = "CLIENT_TRAFFIC_SECRET_0"
		}
		_, secret, err := r.logged(label)
		if err != nil {
			return err
		}
		return r.use(secret)
	case state.Version == tls.VersionTLS12 && r.isClient:
		return r.ready12()
	}
	return fmt.Errorf("records: no writing with %s", tls.CipherSuiteName(state.CipherSuite))
}

// ready12 derives the client's write key, RFC 5246 section 6.3.
func (r *Records) ready12() error {
	clientRandom, master, err := r.logged("CLIENT_RANDOM")
	if err != nil {
		return err
	}
	const at = 5 + 4 + 2 // record header, handshake header, version
	if r.heard.Len() < at+32 {
		return errors.New("records: no ServerHello was heard")
	}
	seed := append([]byte("key expansion"), append(bytes.Clone(r.heard.Bytes()[at:at+32]), clientRandom...)...)
	block := prf(master, seed, 2*16+2*4) // client's key, server's, client's iv, server's
	r.iv, r.seq = block[32:36], 1        // Finished was the first
	r.aead, err = gcm(block[:16])
	return err
}

// prf is P_SHA256, RFC 5246 section 5.
func prf(secret, seed []byte, n int) (out []byte) {
	mac := func(b ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		for _, p := range b {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	for a := mac(seed); len(out) < n; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:n]
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// logged finds a line of the key log.
func (r *Records) logged(label string) (random, secret []byte, err error) {
	for line := range strings.Lines(r.lines.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == label {
			random, err1 := hex.DecodeString(f[1])
			secret, err2 := hex.DecodeString(f[2])
			return random, secret, errors.Join(err1, err2)
		}
	}
	return nil, nil, fmt.Errorf("records: the key log has no %s", label)
}

// use is RFC 8446 section 7.3.
func (r *Records) use(secret []byte) error {
	key, err1 := expand(secret, "key", 16)
	iv, err2 := expand(secret, "iv", 12)
	aead, err3 := gcm(key)
	r.secret, r.iv, r.aead, r.seq = secret, iv, aead, 0
	return errors.Join(err1, err2, err3)
}

// expand is HKDF-Expand-Label without a context, RFC 8446 section 7.1.
func expand(secret []byte, label string, n int) ([]byte, error) {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 "+label)))
	info = append(append(info, "tls13 "+label...), 0)
	return hkdf.Expand(sha256.New, secret, string(info), n)
}

// Seal appends a record to b.
func (r *Records) Seal(b []byte, contentType byte, data []byte) []byte {
	nonce := make([]byte, 12)
	if !r.tls13 {
		copy(nonce, r.iv)
		binary.BigEndian.PutUint64(nonce[4:], r.seq)
		aad := binary.BigEndian.AppendUint64(nil, r.seq)
		aad = append(aad, contentType, 3, 3, byte(len(data)>>8), byte(len(data)))
		b = append(b, contentType, 3, 3)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)+16))
		r.seq++
		return r.aead.Seal(append(b, nonce[4:]...), nonce, data, aad)
	}
	binary.BigEndian.PutUint64(nonce[4:], r.seq)
	for i := range nonce {
		nonce[i] ^= r.iv[i]
	}
	header := binary.BigEndian.AppendUint16([]byte{RecordData, 3, 3}, uint16(len(data)+1+16))
	r.seq++
	return r.aead.Seal(append(b, header...), nonce, append(bytes.Clone(data), contentType), header)
}

// SealKeyUpdate appends a key update that asks for another one, RFC 8446 section 4.6.3,
// and goes on with the next key.
func (r *Records) SealKeyUpdate(b []byte) ([]byte, error) {
	b = r.Seal(b, RecordHandshake, []byte{24, 0, 0, 1, 1})
	next, err := expand(r.secret, "traffic upd", 32)
	if err != nil {
		return nil, err
	}
	return b, r.use(next)
}

// overheard keeps what is read.
type overheard struct {
	net.Conn
	heard *bytes.Buffer
}

func (c *overheard) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.heard.Len() < 1<<10 {
		c.heard.Write(b[:n])
	}
	return n, err
}
