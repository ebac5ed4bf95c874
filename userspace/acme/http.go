// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

const challengePath = "/.well-known/acme-challenge/"

// maxToken is more than any authority's token (RFC 8555 section 8.3), and less than a
// file's name may have.
const maxToken = 128

// HTTPHandler answers HTTP-01 challenges (RFC 8555 section 8.3) of the configured names,
// and redirects what else they are asked for to the same at https, port 443. By no other
// name is anything here.
func (m *Manager) HTTPHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := m.lookup(hostOf(r.Host))
		if n == nil {
			http.NotFound(w, r)
			return
		}
		if token, ok := strings.CutPrefix(r.URL.Path, challengePath); ok {
			n.serveToken(w, r, token)
			return
		}
		http.Redirect(w, r, secure(n.id, r.URL), http.StatusPermanentRedirect)
	})
}

// serveToken leaves the rest to autocert, which takes the host for the name, and the
// token for a part of a file's name.
func (n *name) serveToken(w http.ResponseWriter, r *http.Request, token string) {
	i := n.issuer.Load()
	if i == nil || i.http == nil || len(token) > maxToken || strings.Trim(token, tokenAlphabet) != "" || token == "" ||
		r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.NotFound(w, r)
		return
	}
	r = r.Clone(r.Context())
	r.Host = n.id
	w.Header().Set("Content-Type", "application/octet-stream")
	i.http.ServeHTTP(w, r)
}

// tokenAlphabet is base64url's.
const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// hostOf is a Host header without its port.
func hostOf(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

// secure is the URL's path and query at the name. They are put together from their
// parts, since a request's target need not begin with a slash ("*", "http:.example"), and
// would then go on with the name.
func secure(name string, u *url.URL) string {
	to := url.URL{Scheme: "https", Host: name, Path: "/", RawQuery: u.RawQuery}
	if strings.HasPrefix(u.Path, "/") {
		to.Path, to.RawPath = u.Path, u.RawPath
	}
	return to.String()
}
