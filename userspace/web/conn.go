// SPDX-License-Identifier: Apache-2.0

package web

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// queue is connections for http.Server, as a listener.
type queue struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept is net.Listener's.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case <-q.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) close() { q.once.Do(func() { close(q.closed) }) }

// Close is net.Listener's.
func (q *queue) Close() error {
	q.close()
	return nil
}

// Addr is net.Listener's.
func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }

// Told is what a Conn's net.Conn may be, to hear why Close follows.
type Told interface {
	IdleTimeout() // nothing moved for Table.Idle
	Drained()     // Server.Close
}

// idler is a connection that is closed when nothing moves on it for too long: http.Server
// looks after headers, and not after bodies, whose senders and readers may stop.
type idler struct {
	net.Conn
	conn *Conn
	s    *Server
	idle time.Duration
	last atomic.Int64 // when something moved, since epoch
	once sync.Once

	mu     sync.Mutex // guards what follows
	timer  *time.Timer
	closed bool

	// Of requests: how many there are, and whether there was one.
	active atomic.Int32
	served atomic.Bool
}

func newIdler(s *Server, c *Conn, idle time.Duration) *idler {
	i := &idler{Conn: c.Conn, conn: c, s: s, idle: idle}
	s.mu.Lock()
	s.open[i] = struct{}{}
	s.mu.Unlock()
	i.moved(1)
	if idle > 0 {
		i.look(idle)
	}
	return i
}

// look looks, some time later, whether anything has moved.
func (i *idler) look(after time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.closed {
		i.timer = time.AfterFunc(after, func() {
			if left := i.idle - time.Since(epoch) + time.Duration(i.last.Load()); left > 0 {
				i.look(left)
				return
			}
			if told, ok := i.Conn.(Told); ok {
				told.IdleTimeout()
			}
			_ = i.Close()
		})
	}
}

// epoch is what idler.last counts from.
var epoch = time.Now()

func (i *idler) moved(n int) {
	if n > 0 {
		i.last.Store(int64(time.Since(epoch)))
	}
}

// CloseWrite is for connections that were upgraded.
func (i *idler) CloseWrite() error {
	if c, ok := i.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return i.Close()
}

// Read is net.Conn's.
func (i *idler) Read(b []byte) (int, error) {
	n, err := i.Conn.Read(b)
	i.moved(n)
	return n, err
}

// Write is net.Conn's.
func (i *idler) Write(b []byte) (int, error) {
	n, err := i.Conn.Write(b)
	i.moved(n)
	return n, err
}

// RemoteAddr is the client's, whoever sent the PROXY header.
func (i *idler) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(i.conn.Client) }

// Close is net.Conn's.
func (i *idler) Close() (err error) {
	i.once.Do(func() {
		i.mu.Lock()
		i.closed = true
		if i.timer != nil {
			i.timer.Stop()
		}
		i.mu.Unlock()
		i.s.mu.Lock()
		delete(i.s.open, i)
		i.s.mu.Unlock()
		err = i.Conn.Close()
	})
	return err
}
