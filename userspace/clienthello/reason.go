// SPDX-License-Identifier: Apache-2.0

package clienthello

import "errors"

// What Parse returns when it fills no Hello. Compare with errors.Is.
var (
	// ErrIncomplete: all bytes so far are good and the hello is not whole yet.
	// [Parser.Need] says how many it takes.
	ErrIncomplete = errors.New("incomplete hello")
	// ErrNotTLS: the stream does not start with a TLS handshake record.
	ErrNotTLS = errors.New("not TLS")
	// ErrTooLarge: the message announces more than [Parser.MaxSize] bytes.
	ErrTooLarge = errors.New("hello too large")
	// ErrMalformed: this is TLS, but not a hello to route by. The error is a
	// [Reason], which tells why.
	ErrMalformed = errors.New("malformed hello")
)

// Reason is why a hello is malformed. It is an error, of the kind [ErrMalformed],
// and costs no allocation. The zero value is no reason. The list is closed and
// short, so a reason may be the label of a metric.
type Reason uint8

// The reasons. RFC 8446 unless another is named.
const (
	// RecordVersion: a record after the first has a major version that is not 3.
	RecordVersion Reason = iota + 1
	// RecordLength: a record is empty or longer than 16384 bytes (section 5.1).
	RecordLength
	// RecordType: another record stands between two parts of the hello (5.1).
	RecordType
	// HandshakeType: the handshake message is not a ClientHello.
	HandshakeType
	// TrailingHandshake: the record that ends the hello goes on after it. No
	// client has anything to say before the server answers (5.1).
	TrailingHandshake
	// Truncated: a field ends before its length says so.
	Truncated
	// TrailingBytes: a field or the message goes on after its last element.
	TrailingBytes
	// SessionID: the session ID is longer than 32 bytes (4.1.2).
	SessionID
	// CipherSuites: the list is empty, or its length is odd (4.1.2).
	CipherSuites
	// Compression: the null method is not offered (4.1.2; RFC 5246, 7.4.1.2).
	Compression
	// TwoSNI: the server_name extension is there twice.
	TwoSNI
	// TwoExtensions: another extension is there twice (4.2).
	TwoExtensions
	// ExtensionBody: an extension that TLS itself defines is not built as its
	// RFC says. Unknown extensions are not looked into.
	ExtensionBody
	// PSKNotLast: pre_shared_key is not the last extension (4.2.11).
	PSKNotLast
	// ECHBody: encrypted_client_hello is not built as RFC 9849, section 5 says.
	ECHBody
	// ALPNEmpty: the list has no protocol, or one of no bytes (RFC 7301, 3.1).
	ALPNEmpty
	// ALPNCount: the list has more than 128 protocols: a limit of this package,
	// so that a hello does not cost many times its size in memory.
	ALPNCount
	// NameType: the first entry of server_name is not a host_name.
	NameType
	// TwoNames: server_name has a second entry, of any type. The RFC allows one
	// name of each type, but there is one type (RFC 6066, 3), and servers differ
	// in which entry they take.
	TwoNames
	// NameEmpty: the host name, or the list of names, has no bytes.
	NameEmpty
	// NameLength: the host name is longer than 253 bytes.
	NameLength
	// NameNUL: the host name has a NUL byte, where C code would end it.
	NameNUL
	// NameByte: the host name has another byte that is not a letter, a digit,
	// '-', '_' or '.'.
	NameByte
	// NameLabel: a label of the host name is empty or longer than 63 bytes.
	NameLabel
	// NameDot: the host name ends in a dot (RFC 6066, 3).
	NameDot
	// NameIP: the host name is an IPv4 address in dotted decimal (RFC 6066, 3).
	// An IPv6 address is a NameByte.
	NameIP

	reasonEnd
)

var reasonNames = [reasonEnd]string{
	RecordVersion:     "record_version",
	RecordLength:      "record_length",
	RecordType:        "record_type",
	HandshakeType:     "handshake_type",
	TrailingHandshake: "trailing_handshake",
	Truncated:         "truncated",
	TrailingBytes:     "trailing_bytes",
	SessionID:         "session_id",
	CipherSuites:      "cipher_suites",
	Compression:       "compression",
	TwoSNI:            "two_sni",
	TwoExtensions:     "two_extensions",
	ExtensionBody:     "extension_body",
	PSKNotLast:        "psk_not_last",
	ECHBody:           "ech_body",
	ALPNEmpty:         "alpn_empty",
	ALPNCount:         "alpn_count",
	NameType:          "name_type",
	TwoNames:          "two_names",
	NameEmpty:         "name_empty",
	NameLength:        "name_length",
	NameNUL:           "name_nul",
	NameByte:          "name_byte",
	NameLabel:         "name_label",
	NameDot:           "name_dot",
	NameIP:            "name_ip",
}

// String is the reason's short name, in lower case with underscores.
func (r Reason) String() string {
	if int(r) < len(reasonNames) && r != 0 {
		return reasonNames[r]
	}
	return "unknown"
}

// Error is ErrMalformed's text and the short name.
func (r Reason) Error() string { return ErrMalformed.Error() + ": " + r.String() }

// Is makes every Reason an ErrMalformed.
func (r Reason) Is(target error) bool { return target == ErrMalformed }
