// SPDX-License-Identifier: Apache-2.0

package clienthello

// Lengths in bytes (RFC 1035, section 2.3.4): 255 on the wire of DNS is 253 here.
const (
	maxName  = 253
	maxLabel = 63
)

const hostName = 0 // the one NameType there is

// readServerName: ServerNameList (RFC 6066, section 3). It takes a list of one
// host_name and nothing else, as OpenSSL and BoringSSL do: with any more in it,
// which entry counts is up to the server.
func readServerName(body cursor) ([]byte, Reason) {
	list, ok := body.vector16()
	switch {
	case !ok:
		return nil, Truncated
	case len(body) > 0:
		return nil, TrailingBytes
	case len(list) == 0:
		return nil, NameEmpty
	}
	if kind, _ := list.uint8(); kind != hostName {
		return nil, NameType
	}
	name, ok := list.vector16()
	switch {
	case !ok:
		return nil, Truncated
	case len(list) > 0:
		return nil, TwoNames
	}
	return name, checkName(name)
}

// checkName tells whether name is a host name that means the same to every reader.
// Underscores are no part of a host name by RFC 1123, yet names with them are in
// DNS and in use; a label may also begin or end with a hyphen.
func checkName(name []byte) Reason {
	switch {
	case len(name) == 0:
		return NameEmpty
	case len(name) > maxName:
		return NameLength
	}
	label, labels, decimal := 0, 1, true
	for _, b := range name {
		switch {
		case b == '.':
			if label == 0 {
				return NameLabel
			}
			label = 0
			labels++
			continue
		case b == 0:
			return NameNUL
		case '0' <= b && b <= '9':
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', b == '-', b == '_':
			decimal = false
		default:
			return NameByte
		}
		if label++; label > maxLabel {
			return NameLabel
		}
	}
	switch {
	case label == 0:
		return NameDot
	case decimal && labels == 4:
		return NameIP
	}
	return 0
}

// lower is name as a string in lower case. checkName has found name good, so it
// has at most maxName bytes.
func lower(name []byte) string {
	var buf [maxName]byte
	for i, b := range name {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		buf[i] = b
	}
	return string(buf[:len(name)])
}
