// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// LeaseName is the name of the Lease whose holder writes statuses.
const LeaseName = "spliceway"

// lead takes part in the election of who writes, until ctx ends.
func (c *Cluster) lead(ctx context.Context, cfg *rest.Config) error {
	leases, err := coordination.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: c.opts.Namespace, Name: LeaseName},
			Client:    leases,
			// Two agents of one name would both lead.
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.opts.Node + "_" + string(uuid.NewUUID())},
		},
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		ReleaseOnCancel: true, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				c.log.Info("this agent writes the statuses", "lease", c.opts.Namespace+"/"+LeaseName)
				c.writer.lead(true)
			},
			OnStoppedLeading: func() { c.writer.lead(false) },
		},
	})
	if err != nil {
		return fmt.Errorf("take part in the election of who writes statuses: %w", err)
	}
	c.running.Go(func() {
		for ctx.Err() == nil {
			elector.Run(ctx) // until the lead is lost
		}
	})
	return nil
}
