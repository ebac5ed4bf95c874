// SPDX-License-Identifier: Apache-2.0

// Package acme obtains certificates by itself (RFC 8555), renews them, and answers
// what an authority asks to see that a name is this host's: TLS-ALPN-01 (RFC 8737) and
// HTTP-01. It asks for the names that it was given and for no other, whatever clients
// say, and never while one of them waits. It does not do DNS-01, so there are no
// wildcards, and it has ECDSA keys only: a client that knows nothing but RSA gets no
// certificate.
package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/spliceway/spliceway/userspace/certificate"
)

// ChallengeProtocol is the ALPN protocol of TLS-ALPN-01, RFC 8737. A handshake is a
// challenge if it offers this and nothing else.
const ChallengeProtocol = acme.ALPNProto

var (
	// ErrNotYet means that the name's certificate is not there yet.
	ErrNotYet = errors.New("its certificate has not been obtained yet")
	// ErrNotAsked means that the name is none of those of SetNames.
	ErrNotAsked = errors.New("no certificate is asked for by this name")
)

// attemptsAtOnce is how many names are asked for at a time: an authority limits what
// one account may do at once.
const attemptsAtOnce = 4

// Options of New.
type Options struct {
	// DirectoryURL is the authority's. Empty: Let's Encrypt's.
	DirectoryURL string
	// Email is for the authority to write to. Empty: none.
	Email string
	// Cache is the directory of the account's key and the certificates with theirs.
	// Agents may share one.
	Cache string
	// CAFile is PEM: who vouches for DirectoryURL. Empty: the system's CAs.
	CAFile string
	// RenewBefore is how long before its end a certificate is renewed, 30 days and
	// three quarters of its life at most. 0: a third of its life.
	RenewBefore time.Duration
	// KeyID and HMACKeyFile (base64url) bind to an external account, RFC 8555
	// section 7.3.4. Both or neither.
	KeyID, HMACKeyFile string
	// HTTP01 says that HTTPHandler is served, at port 80 as the world sees it. It is
	// tried where TLS-ALPN-01 does not do.
	HTTP01 bool
	// Logger takes what becomes of each name. nil: nobody does.
	Logger *slog.Logger
	// HTTPClient speaks to the authority. nil: one of the Manager's own.
	HTTPClient *http.Client
}

// Manager has the certificates. Make it with New; Start it, and Close it.
type Manager struct {
	options Options
	logger  *slog.Logger
	http    *http.Client
	account *ecdsa.PrivateKey
	binding *acme.ExternalAccountBinding
	slots   chan struct{} // one for each attempt under way
	ctx     context.Context
	cancel  context.CancelFunc

	// now and after are the clock; tests have their own.
	now   func() time.Time
	after func(time.Duration) <-chan time.Time

	writing sync.RWMutex // held for reading by who writes to the cache

	mu      sync.RWMutex
	started bool
	names   map[string]*name
}

// New prepares the cache (a directory of mode 0700; one that others may enter is a
// warning) with the account's key in it, and reads the files. It contacts nobody. Its
// errors say which file is wrong.
func New(o Options) (*Manager, error) {
	if o.DirectoryURL == "" {
		o.DirectoryURL = acme.LetsEncryptURL
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Manager{
		options: o, logger: o.Logger, http: o.HTTPClient,
		slots: make(chan struct{}, attemptsAtOnce),
		names: make(map[string]*name),
		now:   time.Now, after: time.After,
	}
	var err error
	if m.http == nil {
		if m.http, err = newClient(o.CAFile); err != nil {
			return nil, err
		}
	}
	if m.binding, err = m.readBinding(); err != nil {
		return nil, err
	}
	if m.account, err = m.prepareCache(); err != nil {
		return nil, err
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// SetNames says which names may be asked for, DNS names without wildcards; nothing
// else ever is. What the cache has is there when SetNames returns. The rest is obtained
// in the background, once the Manager is started. Of a name that is no longer among
// them nothing is left but its files.
func (m *Manager) SetNames(names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := make(map[string]bool, len(names))
	for _, n := range names {
		wanted[canonical(n)] = true
	}
	for id, n := range m.names {
		if !wanted[id] {
			n.cancel()
			delete(m.names, id)
		}
	}
	for id := range wanted {
		if m.names[id] == nil && m.ctx.Err() == nil {
			m.names[id] = m.newName(id)
			if m.started {
				go m.names[id].obtain()
			}
		}
	}
}

// Start begins to obtain and to renew. Challenges must get here by then. The end of ctx
// is Close.
func (m *Manager) Start(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started {
		return
	}
	m.started = true
	context.AfterFunc(ctx, m.Close)
	for _, n := range m.names {
		go n.obtain()
	}
}

// Close gives up what is under way: no request is made any more, and no line is logged.
// It waits for the cache to be written, not for the network. The certificates stay good
// for Get.
func (m *Manager) Close() {
	m.cancel()
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.options.HTTPClient == nil {
		m.http.CloseIdleConnections()
	}
}

// Get is for [tls.Config].GetCertificate: the certificate of the name that the client
// asks for, or the answer to a challenge. It never waits for the network. Errors are
// ErrNotYet and ErrNotAsked, each with the name, or that no challenge is open.
func (m *Manager) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	n := m.lookup(hello.ServerName)
	if n == nil {
		return nil, fmt.Errorf("acme: name %q: %w", hello.ServerName, ErrNotAsked)
	}
	if slices.Equal(hello.SupportedProtos, []string{ChallengeProtocol}) {
		return n.challenge(hello)
	}
	c := n.current.Load()
	if c == nil {
		return nil, fmt.Errorf("acme: name %q: %w", n.id, ErrNotYet)
	}
	return c, nil
}

// List returns what may be told of the certificates that are there, by name.
func (m *Manager) List() []certificate.Info {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var list []certificate.Info
	for _, n := range m.names {
		if c := n.current.Load(); c != nil {
			list = append(list, describe(c.Leaf))
		}
	}
	slices.SortFunc(list, func(a, b certificate.Info) int { return slices.Compare(a.Names, b.Names) })
	return list
}

// lookup returns nil for a name that is not configured.
func (m *Manager) lookup(serverName string) *name {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.names[canonical(serverName)]
}

// canonical is the form in which names are compared.
func canonical(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// newIssuer is what does the work for one name until an attempt fails: autocert keeps a
// failure for a minute, and its timers of renewal end with nothing but their Manager.
func (m *Manager) newIssuer(n *name, w *watcher) *issuer {
	i := &issuer{Manager: &autocert.Manager{
		Prompt: autocert.AcceptTOS, // acceptTerms is the configuration's to check
		Cache:  &cache{autocert.DirCache(m.options.Cache), n, w},
		HostPolicy: func(_ context.Context, host string) error {
			if host != n.id {
				return fmt.Errorf("acme: name %q: %w", host, ErrNotAsked)
			}
			return n.ctx.Err()
		},
		RenewBefore: m.options.RenewBefore,
		Email:       m.options.Email,
		Client: &acme.Client{
			Key: m.account, DirectoryURL: m.options.DirectoryURL, UserAgent: "spliceway",
			HTTPClient: &http.Client{Transport: w, Timeout: m.http.Timeout},
		},
		ExternalAccountBinding: m.binding,
	}}
	if m.options.HTTP01 {
		i.http = i.HTTPHandler(nil) // this is what has autocert try HTTP-01
	}
	return i
}
