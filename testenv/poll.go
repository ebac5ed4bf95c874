// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"context"
	"fmt"
	"time"
)

const pollInterval = 2 * time.Millisecond

// Poll calls done until it returns true or an error, or until ctx ends. It is
// for conditions that nothing announces; wait for an event where there is one.
func Poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("condition not met: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
