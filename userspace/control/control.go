// SPDX-License-Identifier: Apache-2.0

// Package control is how the command line asks a running agent: HTTP over an abstract
// unix socket, which belongs to the network namespace that the agent is in and leaves
// no file behind. It answers root and the agent's own user.
package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spliceway/spliceway/userspace/splice"
)

// Selection is which flows are meant: those with one of the IDs, or of the endpoint, or
// all.
type Selection struct {
	IDs      []string `json:"ids,omitempty"`
	Endpoint string   `json:"endpoint,omitempty"`
	All      bool     `json:"all,omitempty"`
}

// Has tells whether a flow is meant.
func (s *Selection) Has(f *splice.FlowInfo) bool {
	if s.All || s.Endpoint != "" && f.Endpoint == s.Endpoint {
		return true
	}
	for _, id := range s.IDs {
		if id == f.ID {
			return true
		}
	}
	return false
}

// Flows are the agent's; both may be called at any time.
type Flows struct {
	List func() []splice.FlowInfo
	Kill func(match func(*splice.FlowInfo) bool) int
}

// longestAddress is what an address of a unix socket has room for (unix(7)).
const longestAddress = 107

// address is the socket of the agent that has its state at bpffs: one agent, one
// path, so one name. A path that does not fit is there by its hash.
func address(bpffs string) *net.UnixAddr {
	bpffs = filepath.Clean(bpffs)
	name := "@spliceway" + bpffs
	if len(name) > longestAddress {
		name = fmt.Sprintf("@spliceway-%x", sha256.Sum256([]byte(bpffs)))
	}
	return &net.UnixAddr{Net: "unix", Name: name}
}

// Server answers.
type Server struct {
	http *http.Server
	done chan struct{} // closed when the socket is
}

// Listen serves on the agent's socket. The caller closes what it gets.
func Listen(bpffs string, flows Flows) (*Server, error) {
	l, err := net.ListenUnix("unix", address(bpffs))
	if err != nil {
		return nil, fmt.Errorf("listen for the command line: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /flows", func(w http.ResponseWriter, _ *http.Request) { answer(w, flows.List()) })
	mux.HandleFunc("POST /flows/kill", func(w http.ResponseWriter, r *http.Request) {
		var s Selection
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&s); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, flows.Kill(s.Has))
	})
	s := &Server{&http.Server{Handler: private(mux), ConnContext: withPeer, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute}, make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l)
	}()
	return s, nil
}

// Close ends it. The socket is another's to take when it returns.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // to a reader that goes away there is nothing to say
}

// private refuses everybody but root and the agent's own user.
func private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err, refused := r.Context().Value(peerKey{}).(error); refused {
			http.Error(w, err.Error()+": run the command as root, or as the agent's user", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

type peerKey struct{}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, trusted(c))
}

// ErrNoAgent: nobody has the socket.
var ErrNoAgent = errors.New("no agent is running")

// Client asks.
type Client struct{ http http.Client }

// NewClient returns a client of the agent that has its state at bpffs, in the network
// namespace of the caller.
func NewClient(bpffs string) *Client {
	return &Client{http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", address(bpffs).Name)
			if errors.Is(err, unix.ECONNREFUSED) {
				return nil, ErrNoAgent
			}
			if err != nil {
				return nil, err
			}
			if err := trusted(c); err != nil {
				return nil, errors.Join(fmt.Errorf("%s is not the agent's: %w", address(bpffs).Name, err), c.Close())
			}
			return c, nil
		},
	}}}
}

// List asks for the flows.
func (c *Client) List(ctx context.Context) (list []splice.FlowInfo, err error) {
	err = c.do(ctx, http.MethodGet, "/flows", nil, &list)
	return list, err
}

// Kill has flows ended, and returns how many were.
func (c *Client) Kill(ctx context.Context, s Selection) (killed int, err error) {
	err = c.do(ctx, http.MethodPost, "/flows/kill", s, &killed)
	return killed, err
}

func (c *Client) do(ctx context.Context, method, path string, send, into any) error {
	var body io.Reader
	if send != nil {
		b, err := json.Marshal(send)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, ErrNoAgent) {
			return ErrNoAgent
		}
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return fmt.Errorf("ask the agent: %s: %s", res.Status, bytes.TrimSpace(text))
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	return nil
}
