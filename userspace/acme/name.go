// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// The wait after the first failure, and the longest.
const (
	firstRetry = time.Minute
	lastRetry  = time.Hour
)

// name is one name of SetNames, from then until it leaves.
type name struct {
	id      string
	manager *Manager
	ctx     context.Context // of the name: nothing is asked for it after its end
	cancel  context.CancelFunc
	current atomic.Pointer[tls.Certificate] // with its Leaf; nil: none yet
	issuer  atomic.Pointer[issuer]          // of the latest attempt; nil: none yet
}

// issuer is an autocert.Manager for one name, with its handler of challenges if HTTP-01
// is on.
type issuer struct {
	*autocert.Manager
	http http.Handler
}

// newName takes the certificate from the cache, if there is one.
func (m *Manager) newName(id string) *name {
	n := &name{id: id, manager: m}
	n.ctx, n.cancel = context.WithCancel(m.ctx)
	// A name that left and comes back may have its certificate on the way to the disk.
	m.writing.Lock()
	defer m.writing.Unlock()
	data, err := autocert.DirCache(m.options.Cache).Get(n.ctx, id)
	switch {
	case errors.Is(err, autocert.ErrCacheMiss):
		return n
	case err == nil:
		err = n.adopt(data)
	}
	if err != nil {
		m.logger.Warn("cached certificate is of no use: another one is obtained", "name", id, "cache", m.options.Cache, "error", err.Error())
	}
	return n
}

// obtain ends when the name has a certificate, which autocert renews from then on, or
// when the name left.
func (n *name) obtain() {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		problems, err := n.attempt()
		if err == nil || n.ctx.Err() != nil {
			return
		}
		// A little more than planned, so that many names do not come back at once.
		wait := retry + rand.N(retry/10)
		n.manager.logger.Error("certificate not obtained", "name", n.id, "problems", problems, "error", err.Error(),
			"retry_in", wait.Round(time.Second).String())
		select {
		case <-n.ctx.Done():
			return
		case <-n.manager.after(wait):
		}
	}
}

// attempt asks once, for as long as five minutes, but not the network if the cache has
// what is needed. The problems are what the authority said on the way.
func (n *name) attempt() (problems []string, err error) {
	select {
	case n.manager.slots <- struct{}{}:
		defer func() { <-n.manager.slots }()
	case <-n.ctx.Done():
		return nil, n.ctx.Err()
	}
	w := newWatcher(n)
	i := n.manager.newIssuer(n, w)
	n.issuer.Store(i)
	// autocert takes the key's kind from what the client knows: this one knows ECDSA
	// only, so there is never a second order for the same name.
	c, err := i.GetCertificate(&tls.ClientHelloInfo{
		ServerName:       n.id,
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:  []tls.CurveID{tls.CurveP256},
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	})
	if err == nil {
		n.current.CompareAndSwap(nil, c) // it is there already: the cache noticed
	}
	return w.obtained(err), err
}

// challenge answers TLS-ALPN-01.
func (n *name) challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	i := n.issuer.Load()
	if i == nil {
		return nil, fmt.Errorf("acme: name %q: no challenge is open", n.id)
	}
	c, err := i.GetCertificate(hello)
	if err != nil {
		return nil, fmt.Errorf("acme: name %q: no challenge is open: %w", n.id, err)
	}
	return c, nil
}

// adopt makes what is in the cache the current certificate, if it is newer than that.
func (n *name) adopt(data []byte) error {
	c, err := parse(data, n.id, n.manager.now())
	if err != nil {
		return err
	}
	for {
		old := n.current.Load()
		if old != nil && !c.Leaf.NotBefore.After(old.Leaf.NotBefore) {
			return nil
		}
		if n.current.CompareAndSwap(old, c) {
			return nil
		}
	}
}
