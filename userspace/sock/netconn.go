// SPDX-License-Identifier: Apache-2.0

package sock

import (
	"fmt"
	"net"
	"os"
)

// NetConn gives the connection away as a net.Conn, for whoever has a goroutine for it. After
// an error it is closed; every other method of c is over.
func (c *Conn) NetConn() (net.Conn, error) {
	f := os.NewFile(uintptr(c.Detach()), "")
	n, err := net.FileConn(f) // with a descriptor of its own
	if e := f.Close(); err == nil && e != nil {
		_ = n.Close()
		err = e
	}
	if err != nil {
		return nil, fmt.Errorf("give a socket to the runtime's poller: %w", err)
	}
	return n, nil
}
