// SPDX-License-Identifier: Apache-2.0

package clienthello

// Extension types (IANA, "TLS ExtensionType Values") that are looked into.
const (
	extServerName    = 0
	extStatusRequest = 5
	extGroups        = 10
	extPointFormats  = 11
	extSignatures    = 13
	extALPN          = 16
	extTimestamps    = 18 // signed_certificate_timestamp
	extMasterSecret  = 23 // extended_master_secret
	extPreSharedKey  = 41
	extEarlyData     = 42
	extVersions      = 43
	extCookie        = 44
	extPSKModes      = 45
	extSignatureCert = 50
	extKeyShare      = 51
	extECH           = 0xfe0d
	extRenegotiation = 0xff01
)

// ECHClientHelloType (RFC 9849, section 5).
const (
	echOuter = 0
	echInner = 1
)

// maxProtocols bounds Hello.ALPN: a 64 KiB list of one-byte protocols would make
// half a megabyte of it. Clients offer a handful.
const maxProtocols = 128

// maxProtocolBytes bounds the list as a whole: it stands in memory for as long as the
// flow lives, and in the access log with up to six bytes for one.
const maxProtocolBytes = 2 << 10

// readExtension takes what a Hello tells from one extension and checks the form
// of the others that a TLS server checks: a hello that the server behind would
// refuse is refused here, where it is counted.
func (f *fields) readExtension(kind uint16, body cursor) Reason {
	ok := true
	switch kind {
	case extServerName:
		if f.serverName != nil {
			return TwoSNI
		}
		var r Reason
		f.serverName, r = readServerName(body)
		return r
	case extALPN:
		return f.readALPN(body)
	case extECH:
		return f.readECH(body)
	case extVersions:
		ok = f.readVersions(body)
	case extEarlyData:
		f.earlyData = true
		ok = len(body) == 0
	case extSignatures:
		f.signatures, ok = pairs(body)
	case extSignatureCert, extGroups:
		_, ok = pairs(body)
	case extTimestamps, extMasterSecret:
		ok = len(body) == 0
	case extStatusRequest:
		ok = isStatusRequest(body)
	case extPointFormats:
		v, whole := body.vector8()
		ok = whole && len(v) > 0 && len(body) == 0
	case extPSKModes, extRenegotiation:
		_, whole := body.vector8()
		ok = whole && len(body) == 0
	case extCookie:
		v, whole := body.vector16()
		ok = whole && len(v) > 0 && len(body) == 0
	case extKeyShare:
		ok = isKeyShare(body)
	case extPreSharedKey:
		ok = isPreSharedKey(body)
	}
	if !ok {
		return ExtensionBody
	}
	return 0
}

// readALPN: ProtocolNameList (RFC 7301, section 3.1).
func (f *fields) readALPN(body cursor) Reason {
	list, ok := body.vector16()
	switch {
	case !ok:
		return Truncated
	case len(body) > 0:
		return TrailingBytes
	case len(list) == 0:
		return ALPNEmpty
	case len(list) > maxProtocolBytes:
		return ALPNCount
	}
	f.alpn, f.protocols = list, 0
	for len(list) > 0 {
		protocol, ok := list.vector8()
		f.protocols++
		switch {
		case !ok:
			return Truncated
		case len(protocol) == 0:
			return ALPNEmpty
		case f.protocols > maxProtocols:
			return ALPNCount
		}
	}
	return 0
}

// protocols makes n strings of an ALPN list that readALPN has found good. They
// share one allocation.
func protocols(list cursor, n int) []string {
	if n == 0 {
		return nil
	}
	all := string(list)
	names := make([]string, n)
	for i := range names {
		end := 1 + int(all[0])
		names[i], all = all[1:end], all[end:]
	}
	return names
}

// readVersions: supported_versions (RFC 8446, section 4.2.1).
func (f *fields) readVersions(body cursor) bool {
	list, ok := body.vector8()
	if !ok || len(body) > 0 || len(list) == 0 || len(list)%2 != 0 {
		return false
	}
	for len(list) > 0 {
		if v, _ := list.uint16(); !isGREASE(v) {
			f.maxVersion = max(f.maxVersion, v)
		}
	}
	return true
}

// readECH: ECHClientHello (RFC 9849, section 5).
func (f *fields) readECH(body cursor) Reason {
	form, ok := body.uint8()
	if !ok {
		return ECHBody
	}
	switch form {
	case echInner:
	case echOuter:
		_, suite := body.bytes(5) // KDF, AEAD, config_id
		_, enc := body.vector16()
		_, payload := body.vector16()
		if !suite || !enc || !payload {
			return ECHBody
		}
		f.ech = true
	default:
		return ECHBody
	}
	if len(body) > 0 {
		return ECHBody
	}
	return 0
}

// pairs takes a non-empty list of two-byte values that fills the body.
func pairs(body cursor) (cursor, bool) {
	list, ok := body.vector16()
	return list, ok && len(body) == 0 && len(list) > 0 && len(list)%2 == 0
}

// isStatusRequest: CertificateStatusRequest (RFC 6066, section 8).
func isStatusRequest(body cursor) bool {
	_, kind := body.uint8()
	_, responders := body.vector16()
	_, extensions := body.vector16()
	return kind && responders && extensions && len(body) == 0
}

// isKeyShare: KeyShareClientHello (RFC 8446, section 4.2.8). The list may be empty,
// which asks for a HelloRetryRequest.
func isKeyShare(body cursor) bool {
	shares, ok := body.vector16()
	for ok && len(shares) > 0 {
		_, group := shares.uint16()
		key, whole := shares.vector16()
		ok = group && whole && len(key) > 0
	}
	return ok && len(body) == 0
}

// isPreSharedKey: OfferedPsks (RFC 8446, section 4.2.11).
func isPreSharedKey(body cursor) bool {
	identities, okIdentities := body.vector16()
	binders, okBinders := body.vector16()
	ok := okIdentities && okBinders && len(body) == 0 && len(identities) > 0 && len(binders) > 0
	for ok && len(identities) > 0 {
		label, whole := identities.vector16()
		_, age := identities.bytes(4)
		ok = whole && age && len(label) > 0
	}
	for ok && len(binders) > 0 {
		binder, whole := binders.vector8()
		ok = whole && len(binder) > 0
	}
	return ok
}
