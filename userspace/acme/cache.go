// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// accountFile is autocert's name for the account's key.
const accountFile = "acme_account+key"

// cache is the directory as autocert sees it for one name. It is how the Manager learns
// of certificates that autocert got by itself.
type cache struct {
	autocert.DirCache
	name    *name
	watcher *watcher
}

// Get notices what another agent with the same cache obtained, and that a renewal
// begins: by looking here.
func (c *cache) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := c.DirCache.Get(ctx, key)
	if key != c.name.id {
		return data, err
	}
	if err == nil {
		_ = c.name.adopt(data) // what is of no use is a miss for autocert, too
	}
	c.watcher.look()
	return data, err
}

// Put has a certificate in use before it is on the disk, and even if it never gets there:
// autocert would throw it away, and ask for it again and again.
func (c *cache) Put(ctx context.Context, key string, data []byte) error {
	m := c.name.manager
	m.writing.RLock()
	defer m.writing.RUnlock()
	if c.name.ctx.Err() != nil {
		return errLeft
	}
	if key != c.name.id {
		return c.DirCache.Put(ctx, key, data)
	}
	issued, err := parse(data, c.name.id, m.now())
	if err != nil {
		return fmt.Errorf("certificate that was issued for %s: %w", c.name.id, err)
	}
	message, leaf := "certificate obtained", issued.Leaf
	if c.name.current.Swap(issued) != nil {
		message = "certificate renewed"
	}
	m.logger.Info(message, "names", leaf.DNSNames, "serial", fmt.Sprintf("%x", leaf.SerialNumber),
		"issuer", leaf.Issuer.String(), "not_after", leaf.NotAfter.UTC().Format(time.RFC3339))
	if err := c.DirCache.Put(ctx, key, data); err != nil {
		m.logger.Error("certificate not cached: it is lost when the agent ends; make room, or let the agent write there",
			"name", c.name.id, "cache", string(c.DirCache), "error", err.Error())
	}
	return nil
}

// parse reads what autocert writes: the key, then the chain. It refuses what autocert
// would not use.
func parse(data []byte, name string, now time.Time) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, err
	}
	if _, ok := c.PrivateKey.(*ecdsa.PrivateKey); !ok {
		return nil, errors.New("the key is not ECDSA")
	}
	if err := c.Leaf.VerifyHostname(name); err != nil {
		return nil, err
	}
	if now.Before(c.Leaf.NotBefore) || now.After(c.Leaf.NotAfter) {
		return nil, fmt.Errorf("it is valid from %s until %s only", c.Leaf.NotBefore.UTC().Format(time.RFC3339), c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return &c, nil
}

// prepareCache makes the directory if need be, and returns the account's key, which is
// made here, and not by autocert, so that several names have one account.
func (m *Manager) prepareCache() (*ecdsa.PrivateKey, error) {
	dir := m.options.Cache
	if dir == "" {
		return nil, errors.New("acme: no cache: name a directory (acme.cache)")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make acme.cache: %w", err)
	}
	if err := m.warnOfModes(dir); err != nil {
		return nil, fmt.Errorf("look at acme.cache: %w", err)
	}
	file := filepath.Join(dir, accountFile)
	data, err := autocert.DirCache(dir).Get(context.Background(), accountFile)
	if errors.Is(err, autocert.ErrCacheMiss) {
		return newAccount(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read the account's key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("the account's key %s is not PEM: restore it, or remove it for a new account", file)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the account's key %s is no ECDSA key (SEC 1): restore it, or remove it for a new account", file)
	}
	return key, nil
}

// newAccount makes the account's key, which the authority hears of with the first order.
func newAccount(dir string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the account's key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the account's key: %w", err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	if err := autocert.DirCache(dir).Put(context.Background(), accountFile, data); err != nil {
		return nil, fmt.Errorf("write to acme.cache: %w", err)
	}
	return key, nil
}

// warnOfModes looks at the directory and at what is in it: all of it are keys.
func (m *Manager) warnOfModes(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	paths := []string{dir}
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			continue // gone, by another agent with the same cache
		}
		m.warnOfMode(path, info)
	}
	return nil
}

func (m *Manager) warnOfMode(path string, info os.FileInfo) {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		m.logger.Warn("private keys are open to others than the agent's user: chmod go= "+path, "file", path, "mode", fmt.Sprintf("%04o", mode))
	}
}
