// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxBody is more than any document of an authority, and a limit of what it can have the
// agent read.
const maxBody = 1 << 20

// repeatAfter is for how long a renewal's problem is not told again: autocert repeats a
// request within an attempt, and attempts after half an hour.
const repeatAfter = 20 * time.Minute

// errLeft ends what autocert does for a name that left, or for an agent that stops.
var errLeft = errors.New("the name is asked for no longer")

// errEarly ends a renewal before it begins.
var errEarly = errors.New("the certificate is too young to be renewed")

// watcher is the way to the authority for one name. It reads what the authority says is
// wrong, since autocert keeps that to itself: it renews without a word, and of a failed
// authorization it says that it failed.
type watcher struct {
	name *name
	base http.RoundTripper

	mu       sync.Mutex
	renewing bool                 // there is a certificate: what comes now is about the next one
	failed   bool                 // the attempt is over: what comes now is tidying up
	problems []string             // of the attempt, each once
	told     map[string]time.Time // when
	looks    int                  // at the cache
	early    bool                 // no request is made before the next renewal
}

func newWatcher(n *name) *watcher {
	base := n.manager.http.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	return &watcher{name: n, base: base, told: make(map[string]time.Time)}
}

// obtained ends the attempt, and returns its problems.
func (w *watcher) obtained(err error) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.renewing, w.failed = err == nil, err != nil
	return w.problems
}

// look is autocert's at the cache: the first is the attempt's, each further one is how a
// renewal begins. It decides whether that may. autocert renews without end, once a
// second, if RenewBefore is more than the authority lets certificates live, and the
// authority would have enough of that; so none is renewed before a quarter of its life is
// over.
func (w *watcher) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looks++; w.looks == 1 {
		return
	}
	c := w.name.current.Load() // nil: the first is so young that it is not there yet
	w.early = c == nil || w.name.manager.now().Sub(c.Leaf.NotBefore) < c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)/4
}

// barred says why no request may be made, nil if one may.
func (w *watcher) barred() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.name.ctx.Err() != nil:
		return errLeft
	case w.early:
		return errEarly
	}
	return nil
}

// RoundTrip is [http.RoundTripper]. It reads the whole answer, so that the end of the
// name is the end of the request.
func (w *watcher) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	defer context.AfterFunc(w.name.ctx, cancel)()
	if err := w.barred(); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		if errors.Is(err, errEarly) {
			w.report(fmt.Sprintf("acme.renewBefore (%s) is too much for the life of this certificate: it is renewed when a quarter of that is over",
				w.name.manager.options.RenewBefore))
		}
		return nil, err
	}
	res, body, err := w.exchange(req.WithContext(ctx))
	if err != nil {
		w.report("no answer from " + req.URL.Host + ": " + err.Error())
		return nil, err
	}
	for _, p := range problemsIn(res, body) {
		w.report(p)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

func (w *watcher) exchange(req *http.Request) (*http.Response, []byte, error) {
	res, err := w.base.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("an answer of more than %d bytes", maxBody)
	}
	return res, body, err
}

// report keeps a problem for the attempt's log line, or logs it if it is a renewal's.
func (w *watcher) report(problem string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed || w.name.ctx.Err() != nil {
		return
	}
	now := w.name.manager.now()
	last, again := w.told[problem]
	if again && now.Sub(last) < repeatAfter {
		return
	}
	w.told[problem] = now
	if !w.renewing && !w.early {
		w.problems = append(w.problems, problem)
		return
	}
	for p, at := range w.told { // no more of them than of the last while
		if now.Sub(at) >= repeatAfter {
			delete(w.told, p)
		}
	}
	attrs := []any{"name", w.name.id, "problems", []string{problem}}
	if c := w.name.current.Load(); c != nil {
		attrs = append(attrs, "not_after", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	w.name.manager.logger.Warn("certificate not renewed", attrs...)
}

// problem is RFC 7807, as in RFC 8555 section 6.7.
type problem struct {
	Type        string
	Detail      string
	Subproblems []problem
}

func (p problem) String() string {
	s := p.Type + ": " + p.Detail
	for _, sub := range p.Subproblems {
		s += "; " + sub.String()
	}
	return s
}

// problemsIn reads an answer: a problem document, or an order or an authorization (RFC
// 8555 sections 7.1.3 and 7.1.4) that became invalid. badNonce is none: it is how an
// authority says what the next nonce is.
func problemsIn(res *http.Response, body []byte) (problems []string) {
	if res.StatusCode >= http.StatusBadRequest {
		var p problem
		if json.Unmarshal(body, &p) != nil || p.Type == "" {
			return []string{"HTTP status " + res.Status}
		}
		if strings.HasSuffix(strings.ToLower(p.Type), ":badnonce") {
			return nil
		}
		return []string{p.String()}
	}
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		return nil
	}
	var object struct {
		Status     string
		Error      *problem
		Challenges []struct {
			Type  string
			Error *problem
		}
	}
	if json.Unmarshal(body, &object) != nil || object.Status != "invalid" {
		return nil
	}
	for _, c := range object.Challenges {
		if c.Error != nil {
			problems = append(problems, c.Type+": "+c.Error.String())
		}
	}
	if object.Error != nil && len(problems) == 0 {
		problems = append(problems, object.Error.String())
	}
	return slices.Compact(problems)
}
