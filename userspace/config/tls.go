// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"math"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"time"
)

// versions are the versions of TLS that may be named.
var versions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// curves are the key exchanges that may be named, in the order of preference.
var curves = []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}

// termination reports what is wrong with an endpoint's tlsTermination, and fills in
// the fields without a key.
func (r *report) termination(p *path, ep *Endpoint) {
	t := ep.TLSTermination
	t.Pos = r.at(p)
	if ep.Engine != "" {
		r.wrong(p.parent.key("engine"), "engines are for TLS that passes through: this endpoint terminates it")
	}
	if ep.Sockmap != "" {
		r.wrong(p.parent.key("sockmap"), "sockmap is for TLS that passes through: this endpoint terminates it")
	}
	switch {
	case t.ACME && len(t.Certificates) > 0:
		r.wrong(p.key("acme"), "certificates and acme are both there, expected one of them")
	case t.ACME && isWildcard(ep.ServerName):
		r.wrong(p.key("acme"), "the endpoint's url is a wildcard, for which an authority wants to see a DNS record (DNS-01); give it certificates from files")
	case !t.ACME && len(t.Certificates) == 0 && !r.broken[p.key("certificates").String()]:
		r.wrong(p, "certificates is needed, a list of certFile and keyFile, or acme: true")
	}
	for i := range t.Certificates {
		r.certificate(p.key("certificates").element(i), &t.Certificates[i])
	}
	t.MinTLS, t.MaxTLS = r.version(p.key("minVersion"), t.MinVersion), r.version(p.key("maxVersion"), t.MaxVersion)
	if t.MinTLS > t.MaxTLS && t.MaxTLS != 0 {
		r.wrong(p.key("minVersion"), "%s is above maxVersion, %s", t.MinVersion, t.MaxVersion)
	}
	r.suites(p.key("cipherSuites"), t)
	r.groups(p.key("curves"), t)
	for i, protocol := range t.ALPN {
		if len(protocol) == 0 || len(protocol) > math.MaxUint8 {
			r.wrong(p.key("alpn").element(i), "expected a protocol of 1 to 255 bytes, found %d", len(protocol))
		}
	}
	if t.MutualTLS != nil {
		r.mutualTLS(p.key("mutualTLS"), t.MutualTLS)
	}
}

func (r *report) certificate(p *path, c *Certificate) {
	c.Pos = r.at(p)
	switch {
	case c.Directory != "" && (c.CertFile != "" || c.KeyFile != "" || c.OCSPFile != ""):
		r.wrong(p, "directory is there, and files are, too: expected one of them")
	case c.Directory == "" && c.CertFile == "":
		r.wrong(p, "certFile or directory is needed")
	case c.OCSPFile != "" && c.OCSP != "":
		r.wrong(p.key("ocsp"), "ocspFile is there, too: expected one of them")
	}
	r.oneOf(p.key("ocsp"), c.OCSP, "", "fetch")
	r.files(&c.CertFile, &c.KeyFile, &c.Directory, &c.OCSPFile)
}

func (r *report) mutualTLS(p *path, m *MutualTLS) {
	m.Pos = r.at(p)
	r.oneOf(p.key("mode"), m.Mode, "require-and-verify", "require-any", "request")
	verify := m.Mode == "require-and-verify"
	switch {
	case verify && len(m.CAFiles) == 0:
		r.wrong(p.key("caFiles"), "at least one file is needed: whose certificates are good")
	case !verify && len(m.CAFiles) > 0:
		r.wrong(p.key("caFiles"), "mode %s verifies nothing, so that CAs mean nothing", m.Mode)
	case !verify && len(m.CRLFiles) > 0:
		r.wrong(p.key("crlFiles"), "mode %s verifies nothing, so that revocation means nothing", m.Mode)
	}
	r.lists(p.key("caFiles"), m.CAFiles)
	r.lists(p.key("crlFiles"), m.CRLFiles)
}

func (r *report) lists(p *path, files []string) {
	for i := range files {
		if files[i] == "" {
			r.wrong(p.element(i), "expected a file, found nothing")
		}
		r.files(&files[i])
	}
}

// files makes paths relative to the agent's file's directory.
func (r *report) files(paths ...*string) {
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(r.file), *p)
		}
	}
}

func (r *report) version(p *path, name string) uint16 {
	r.oneOf(p, name, "1.2", "1.3")
	return versions[name]
}

func (r *report) suites(p *path, t *Termination) {
	known := map[string]*tls.CipherSuite{}
	var names []string
	for _, s := range tls.CipherSuites() {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			known[s.Name] = s
			names = append(names, s.Name)
		}
	}
	for i, name := range t.CipherSuites {
		s := known[name]
		if s != nil {
			t.Suites = append(t.Suites, s.ID)
			continue
		}
		at, is := p.element(i), func(s *tls.CipherSuite) bool { return s.Name == name }
		switch {
		case slices.ContainsFunc(tls.CipherSuites(), is):
			r.wrong(at, "%s is of TLS 1.3, whose suites are not to be chosen: leave it out", quote(name))
		case slices.ContainsFunc(tls.InsecureCipherSuites(), is):
			r.wrong(at, "%s is broken, and not offered", quote(name))
		default:
			r.oneOf(at, name, names...)
		}
	}
	if len(t.CipherSuites) > 0 && t.MinTLS == tls.VersionTLS13 {
		r.wrong(p, "cipher suites are of TLS 1.2, and minVersion is 1.3")
	}
}

func (r *report) groups(p *path, t *Termination) {
	names := make([]string, len(curves))
	for i, c := range curves {
		names[i] = c.String()
	}
	for i, name := range t.Curves {
		if at := slices.Index(names, name); at >= 0 {
			t.Groups = append(t.Groups, curves[at])
		} else {
			r.oneOf(p.element(i), name, names...)
		}
	}
}

// upstreamTLS reports what is wrong with how an endpoint's upstream is spoken TLS to.
func (r *report) upstreamTLS(p *path, ep *Endpoint) {
	u := ep.Upstream.TLS
	if u == nil {
		return
	}
	u.Pos = r.at(p)
	wants := slices.ContainsFunc(ep.Upstream.All, func(t Target) bool { return t.TLS })
	switch {
	case ep.TLSTermination == nil:
		r.wrong(p, "this endpoint passes TLS through: without tlsTermination the client's own TLS reaches the upstream")
	case !wants && len(ep.Upstream.All) > 0:
		r.wrong(p, "no target's url is tls://")
	}
	u.MinTLS = r.version(p.key("minVersion"), u.MinVersion)
	if u.ServerName != "" {
		if _, err := netip.ParseAddr(u.ServerName); err != nil {
			if u.ServerName, err = parseHostName(u.ServerName); err != nil {
				r.wrong(p.key("serverName"), "%v", err)
			}
		}
	}
	switch {
	case u.KeyFile != "" && u.CertFile == "":
		r.wrong(p.key("keyFile"), "without certFile there is nothing that the key is of")
	case u.InsecureSkipVerify && u.CAFile != "":
		r.wrong(p.key("caFile"), "insecureSkipVerify takes any certificate: expected one of them")
	}
	r.files(&u.CAFile, &u.CertFile, &u.KeyFile)
}

func (r *report) acme(p *path, cfg *Config) {
	a := &cfg.ACME
	wanted := slices.ContainsFunc(cfg.Endpoints, func(e Endpoint) bool { return e.TLSTermination != nil && e.TLSTermination.ACME })
	if u, err := url.Parse(a.DirectoryURL); err != nil || u.Scheme != "https" || u.Host == "" {
		r.wrong(p.key("directoryURL"), "expected https://HOST/PATH, found %s", quote(a.DirectoryURL))
	}
	if wanted && !a.AcceptTerms {
		r.wrong(p.key("acceptTerms"), "an endpoint has acme: true, which needs acceptTerms: true here: that you agree to the authority's terms of service")
	}
	if a.Cache == "" {
		r.wrong(p.key("cache"), "a directory is needed")
	}
	if a.HTTPAddress != "" {
		r.hostPort(p.key("httpAddress"), a.HTTPAddress, "HOST:PORT or :PORT")
	}
	r.duration(p.key("renewBefore"), a.RenewBefore, 0)
	if (a.ExternalAccount.KeyID == "") != (a.ExternalAccount.HMACKeyFile == "") {
		r.wrong(p.key("externalAccount"), "keyID and hmacKeyFile are needed both, or neither")
	}
	r.files(&a.Cache, &a.CAFile, &a.ExternalAccount.HMACKeyFile)
}

func (r *report) sessionTickets(p *path, t *SessionTickets) {
	r.duration(p.key("rotation"), t.Rotation, time.Minute)
	r.files(&t.KeyFile)
}
