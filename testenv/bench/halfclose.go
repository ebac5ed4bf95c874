// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"time"
)

const (
	// A half-closed stream carries as much behind the end of the other way as
	// before it.
	wordSize = 4_000_000
	// wordPatience is how long what a gateway truncates is waited for.
	wordPatience = 5 * time.Second
)

// halfClose has either end close its side of the stream with bytes on their way, and
// the other one answer then (RFC 9293, section 3.6). It counts what never came, or came
// wrong.
func (b *bed) halfClose(ctx context.Context) ([]float64, error) {
	if b.process == nil {
		return nil, nil
	}
	client, err := b.clientEndsFirst(ctx)
	if err != nil {
		return nil, err
	}
	backend, err := b.backendEndsFirst(ctx)
	return []float64{float64(client) / 1e6, float64(backend) / 1e6}, err
}

func (b *bed) clientEndsFirst(ctx context.Context) (lost int64, err error) {
	c, err := b.dial(ctx, "lastword", 0)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	// What fails from here on is the gateway's to answer for: it is counted.
	sayWord(c)
	_ = c.SetDeadline(time.Now().Add(wordPatience))
	heard := make([]byte, 1) // whether the backend got all
	if _, err := io.ReadFull(c, heard); err != nil {
		return 2 * wordSize, nil
	}
	if heard[0] == 0 {
		lost = wordSize // some of it: who truncates is not asked how much
	}
	return lost + wordSize - hearWord(c), nil
}

func (b *bed) backendEndsFirst(ctx context.Context) (lost int64, err error) {
	b.received.Store(-1)
	c, err := b.dial(ctx, "firstword", 0)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wordPatience))
	lost = wordSize - hearWord(c)
	sayWord(c)
	// The backend knows when it has all, or the end.
	wait, cancel := context.WithTimeout(ctx, wordPatience)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); b.received.Load() < 0; {
		select {
		case <-tick.C:
		case <-wait.Done():
			tick.Stop()
			return lost + wordSize, ctx.Err()
		}
	}
	return lost + wordSize - b.received.Load(), nil
}

// answerAfterEnd is the backend where the client ends first.
func answerAfterEnd(c *net.TCPConn) {
	heard := []byte{0}
	if hearWord(c) == wordSize {
		heard[0] = 1
	}
	if _, err := c.Write(heard); err == nil {
		sayWord(c)
	}
}

// endBeforeAnswer is the backend where it ends first. It returns what came then.
func endBeforeAnswer(c *net.TCPConn) int64 {
	sayWord(c)
	_ = c.SetReadDeadline(time.Now().Add(wordPatience))
	return hearWord(c)
}

// word is what each end says.
func word() []byte {
	w := make([]byte, wordSize)
	for i := range w {
		w[i] = byte(i * i >> 8)
	}
	return w
}

// sayWord sends it and ends this side of the stream.
func sayWord(c *net.TCPConn) {
	if _, err := c.Write(word()); err == nil {
		_ = c.CloseWrite()
	}
}

// hearWord reads to the end of the stream and returns how much of the word came; none
// if it is another one, or without an end.
func hearWord(r io.Reader) int64 {
	got, err := io.ReadAll(io.LimitReader(r, wordSize+1))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return min(int64(len(got)), wordSize-1) // a reset, or no end: not all of it
	}
	if !bytes.HasPrefix(word(), got) {
		return 0
	}
	return int64(len(got))
}
