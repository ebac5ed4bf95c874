// SPDX-License-Identifier: Apache-2.0

package clienthello_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/spliceway/spliceway/userspace/clienthello"
)

// A reader that waits for as many bytes as Parse asks for.
func ExampleParser_Parse() {
	client, server := net.Pipe()
	defer client.Close()
	go tls.Client(client, &tls.Config{ServerName: "Shop.Test", NextProtos: []string{"h2"}}).Handshake()

	var p clienthello.Parser
	var h clienthello.Hello
	var b []byte
	err := p.Parse(b, &h)
	for errors.Is(err, clienthello.ErrIncomplete) {
		have := len(b)
		b = append(b, make([]byte, p.Need-have)...)
		if _, err := io.ReadFull(server, b[have:]); err != nil {
			fmt.Println("client has gone:", err)
			return
		}
		err = p.Parse(b, &h)
	}
	fmt.Println(err, h.ServerName, h.ALPN, h.Size == len(b))
	// Output: <nil> shop.test [h2] true
}
