// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// variable is a dotted name that expressions know.
type variable struct {
	of  *cel.Type
	get func(*Run) ref.Val
}

// variables are all of them. What is not known of a connection is empty: what TLS
// negotiated before the agent has terminated it, the certificate of a client that showed
// none.
var variables = func() map[string]variable {
	v := map[string]variable{
		"conn.client_ip":   {cel.StringType, func(r *Run) ref.Val { return types.String(address(r.c.Client.Addr()).String()) }},
		"conn.client_port": {cel.IntType, func(r *Run) ref.Val { return types.Int(r.c.Client.Port()) }},
		"conn.server_ip":   {cel.StringType, func(r *Run) ref.Val { return types.String(address(r.c.Server.Addr()).String()) }},
		"conn.server_port": {cel.IntType, func(r *Run) ref.Val { return types.Int(r.c.Server.Port()) }},
		"conn.ts.start":    {cel.TimestampType, func(r *Run) ref.Val { return moment(r.c.Start) }},

		"conn.tls.sni":             {cel.StringType, func(r *Run) ref.Val { return types.String(r.c.SNI) }},
		"conn.tls.ja4_fingerprint": {cel.StringType, func(r *Run) ref.Val { return types.String(r.c.JA4) }},
		"conn.tls.offered_alpn":    {cel.ListType(cel.StringType), func(r *Run) ref.Val { return stringList(r.c.OfferedALPN) }},
		"conn.tls.version":         {cel.StringType, func(r *Run) ref.Val { return types.String(r.negotiated().Version) }},
		"conn.tls.cipher_suite":    {cel.StringType, func(r *Run) ref.Val { return types.String(r.negotiated().CipherSuite) }},
		"conn.tls.negotiated_alpn": {cel.StringType, func(r *Run) ref.Val { return types.String(r.negotiated().ALPN) }},
		"conn.tls.session_resumed": {cel.BoolType, func(*Run) ref.Val { return types.False }},

		"endpoint.addr":     {cel.StringType, func(r *Run) ref.Val { return types.String(fmt.Sprintf("%s:%d", r.c.Endpoint.Host, r.c.Endpoint.Port)) }},
		"endpoint.host":     {cel.StringType, func(r *Run) ref.Val { return types.String(r.c.Endpoint.Host) }},
		"endpoint.id":       {cel.StringType, func(r *Run) ref.Val { return types.String(r.c.Endpoint.ID) }},
		"endpoint.port":     {cel.IntType, func(r *Run) ref.Val { return types.Int(r.c.Endpoint.Port) }},
		"endpoint.protocol": {cel.StringType, func(r *Run) ref.Val { return types.String(r.c.Endpoint.Protocol) }},
		"endpoint.url":      {cel.StringType, func(r *Run) ref.Val { return types.String(r.c.Endpoint.URL) }},

		"time.now": {cel.StringType, func(*Run) ref.Val { return types.String(time.Now().UTC().Format(time.RFC3339)) }},

		"vars": {cel.MapType(cel.StringType, cel.DynType), func(r *Run) ref.Val { return types.DefaultTypeAdapter.NativeToValue(maps.Clone(r.vars)) }},

		"actions.ngrok.log.metadata": {cel.MapType(cel.StringType, cel.DynType), func(r *Run) ref.Val { return types.DefaultTypeAdapter.NativeToValue(r.logged) }},

		"actions.ngrok.restrict_ips.action":       {cel.StringType, func(r *Run) ref.Val { return types.String(r.restricted.action) }},
		"actions.ngrok.restrict_ips.matched_cidr": {cel.StringType, func(r *Run) ref.Val { return types.String(prefixText(r.restricted.cidr)) }},
		"actions.ngrok.restrict_ips.error.code": {cel.StringType, func(r *Run) ref.Val {
			if r.restricted.err == "" {
				return types.String("")
			}
			return types.String(restrictFailed)
		}},
		"actions.ngrok.restrict_ips.error.message": {cel.StringType, func(r *Run) ref.Val { return types.String(r.restricted.err) }},
		"actions.ngrok.forward_internal.error":     {cel.StringType, func(r *Run) ref.Val { return types.String(r.forwardError) }},

		"actions.ngrok.terminate_tls.version":       {cel.StringType, func(r *Run) ref.Val { return types.String(r.negotiated().Version) }},
		"actions.ngrok.terminate_tls.cipher_suite":  {cel.StringType, func(r *Run) ref.Val { return types.String(r.negotiated().CipherSuite) }},
		"actions.ngrok.terminate_tls.error_code":    {cel.StringType, nothing},
		"actions.ngrok.terminate_tls.error_message": {cel.StringType, nothing},
		"actions.ngrok.terminate_tls.warnings":      {cel.ListType(cel.StringType), func(*Run) ref.Val { return stringList(nil) }},
		"actions.ngrok.terminate_tls.sni": {cel.StringType, func(r *Run) ref.Val {
			if r.c.TLS == nil {
				return types.String("")
			}
			return types.String(r.c.SNI)
		}},
	}
	client := func(r *Run) *x509.Certificate { return r.negotiated().ClientCertificate }
	server := func(r *Run) *x509.Certificate { return r.negotiated().ServerCertificate }
	for _, prefix := range []string{"conn.tls.", "actions.ngrok.terminate_tls."} {
		certificate(v, prefix+"client", client)
		certificate(v, prefix+"server", server)
	}
	return v
}()

// restrictFailed is the error code of restrict-ips.
const restrictFailed = "policy_failed"

// nothing is the errors of terminate-tls: whoever asks for them has not had any, as they
// end the connection.
func nothing(*Run) ref.Val { return types.String("") }

// moment is t as CEL has it: its hours are those of UTC wherever the host is.
func moment(t time.Time) ref.Val { return types.Timestamp{Time: t.UTC()} }

// negotiated is what TLS came to; empty before.
func (r *Run) negotiated() *TLS {
	if r.c.TLS == nil {
		return &TLS{}
	}
	return r.c.TLS
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func stringList(list []string) ref.Val {
	return types.NewStringList(types.DefaultTypeAdapter, list)
}

// certificate declares the fields of a certificate.
func certificate(v map[string]variable, prefix string, of func(*Run) *x509.Certificate) {
	text := func(name string, get func(*x509.Certificate) string) {
		v[prefix+"."+name] = variable{cel.StringType, func(r *Run) ref.Val {
			if c := of(r); c != nil {
				return types.String(get(c))
			}
			return types.String("")
		}}
	}
	texts := func(name string, get func(*x509.Certificate) []string) {
		v[prefix+"."+name] = variable{cel.ListType(cel.StringType), func(r *Run) ref.Val {
			if c := of(r); c != nil {
				return stringList(get(c))
			}
			return stringList(nil)
		}}
	}
	at := func(name string, get func(*x509.Certificate) time.Time) {
		v[prefix+"."+name] = variable{cel.TimestampType, func(r *Run) ref.Val {
			if c := of(r); c != nil {
				return moment(get(c))
			}
			return moment(time.Unix(0, 0))
		}}
	}
	text("pem", func(c *x509.Certificate) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	})
	text("serial_number", func(c *x509.Certificate) string { return c.SerialNumber.Text(16) })
	text("signature_algorithm", func(c *x509.Certificate) string { return c.SignatureAlgorithm.String() })
	v[prefix+".extensions"] = variable{cel.ListType(cel.MapType(cel.StringType, cel.DynType)), func(r *Run) ref.Val {
		list := []any{}
		if c := of(r); c != nil {
			for _, e := range c.Extensions {
				list = append(list, map[string]any{"id": e.Id.String(), "critical": e.Critical, "value": e.Value})
			}
		}
		return types.DefaultTypeAdapter.NativeToValue(list)
	}}
	name := func(which string, get func(*x509.Certificate) *pkix.Name) {
		text(which, func(c *x509.Certificate) string { return get(c).String() })
		text(which+".common_name", func(c *x509.Certificate) string { return get(c).CommonName })
		for field, values := range map[string]func(*pkix.Name) []string{
			"country":             func(n *pkix.Name) []string { return n.Country },
			"locality":            func(n *pkix.Name) []string { return n.Locality },
			"organization":        func(n *pkix.Name) []string { return n.Organization },
			"organizational_unit": func(n *pkix.Name) []string { return n.OrganizationalUnit },
			"postal_code":         func(n *pkix.Name) []string { return n.PostalCode },
			"province":            func(n *pkix.Name) []string { return n.Province },
			"street_address":      func(n *pkix.Name) []string { return n.StreetAddress },
		} {
			texts(which+"."+field, func(c *x509.Certificate) []string { return values(get(c)) })
		}
	}
	name("issuer", func(c *x509.Certificate) *pkix.Name { return &c.Issuer })
	name("subject", func(c *x509.Certificate) *pkix.Name { return &c.Subject })
	texts("san.dns_names", func(c *x509.Certificate) []string { return c.DNSNames })
	texts("san.email_addresses", func(c *x509.Certificate) []string { return c.EmailAddresses })
	texts("san.ip_addresses", func(c *x509.Certificate) (all []string) {
		for _, ip := range c.IPAddresses {
			all = append(all, ip.String())
		}
		return all
	})
	texts("san.uris", func(c *x509.Certificate) (all []string) {
		for _, u := range c.URIs {
			all = append(all, u.String())
		}
		return all
	})
	at("validity.not_before", func(c *x509.Certificate) time.Time { return c.NotBefore })
	at("validity.not_after", func(c *x509.Certificate) time.Time { return c.NotAfter })
}
