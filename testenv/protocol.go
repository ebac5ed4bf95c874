// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/pires/go-proxyproto"
)

// Mode is what a client asks a [Backend] to do once it has said who it is.
type Mode string

const (
	Identify Mode = ""         // nothing: half-close
	Echo     Mode = "echo"     // send back what arrives, to the end of it
	Source   Mode = "source"   // send Down bytes, then half-close; ignore what arrives
	Sink     Mode = "sink"     // read to the end, then send a Digest frame and half-close
	Transfer Mode = "transfer" // random bytes both ways at once, see TransferBoth
)

// Request is the first thing that a client sends, as a frame: the length in
// four bytes, big-endian, then as many of JSON. The backend answers with a
// frame of a [Reply], and then does what Mode says.
type Request struct {
	Mode Mode   `json:"mode,omitempty"`
	ID   uint64 `json:"id,omitempty"` // names the [Session]; 0 keeps none
	Seed uint64 `json:"seed,omitempty"`
	Up   int64  `json:"up,omitempty"`   // bytes that the client will send (Transfer)
	Down int64  `json:"down,omitempty"` // bytes that the backend is to send (Source, Transfer)
	Hash bool   `json:"hash,omitempty"` // Sink: SHA-256 as well as the count, at its cost in CPU
}

// Reply is what a backend saw of a connection.
type Reply struct {
	Backend    string       `json:"backend"`              // [BackendOptions].Name
	ServerName string       `json:"serverName,omitempty"` // SNI; TLS backends only
	ALPN       string       `json:"alpn,omitempty"`       // negotiated; TLS backends only
	TLSVersion uint16       `json:"tlsVersion,omitempty"` // as in crypto/tls; 0 without TLS
	Remote     string       `json:"remote"`               // who connected, host:port: the gateway, if there is one
	Local      string       `json:"local"`                // where it connected to
	Proxy      *ProxyHeader `json:"proxy,omitempty"`      // nil: no PROXY header came
}

// ProxyHeader is a PROXY protocol header, version 1 or 2, that a backend read.
type ProxyHeader struct {
	Version     int    `json:"version"`
	Local       bool   `json:"local,omitempty"` // the LOCAL command: sent by the proxy for itself
	Source      string `json:"source"`          // host:port, or what the header says
	Destination string `json:"destination"`
	TLVs        []TLV  `json:"tlvs,omitempty"` // in the order they came; version 2 only
}

// TLV is one type-length-value of a PROXY protocol version 2 header.
type TLV struct {
	Type  byte   `json:"type"` // 0x01 ALPN, 0x02 authority, 0x05 unique ID, ...
	Value []byte `json:"value"`
}

// TLV returns the value of the first TLV of a type, or nil.
func (h *ProxyHeader) TLV(kind byte) []byte {
	for _, tlv := range h.TLVs {
		if tlv.Type == kind {
			return tlv.Value
		}
	}
	return nil
}

func newProxyHeader(h *proxyproto.Header) (*ProxyHeader, error) {
	header := &ProxyHeader{Version: int(h.Version), Local: h.Command.IsLocal()}
	if h.SourceAddr != nil {
		header.Source = h.SourceAddr.String()
	}
	if h.DestinationAddr != nil {
		header.Destination = h.DestinationAddr.String()
	}
	tlvs, err := h.TLVs()
	if err != nil {
		return nil, fmt.Errorf("read TLVs: %w", err)
	}
	for _, tlv := range tlvs {
		header.TLVs = append(header.TLVs, TLV{Type: byte(tlv.Type), Value: tlv.Value})
	}
	return header, nil
}

// Ask sends a request and reads the reply. What the mode brings next is on
// conn, not a byte of it read.
func Ask(conn io.ReadWriter, request Request) (Reply, error) {
	var reply Reply
	if err := writeFrame(conn, request); err != nil {
		return reply, fmt.Errorf("send request: %w", err)
	}
	if err := readFrame(conn, &reply); err != nil {
		return reply, fmt.Errorf("read reply: %w", err)
	}
	return reply, nil
}

// ReadDigest reads what a backend says at the end of [Sink].
func ReadDigest(r io.Reader) (Digest, error) {
	var d Digest
	if err := readFrame(r, &d); err != nil {
		return d, fmt.Errorf("read digest: %w", err)
	}
	return d, nil
}

const maxFrame = 1 << 16

func writeFrame(w io.Writer, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

func readFrame(r io.Reader, value any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame {
		return errors.New("frame is too long")
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, value)
}
