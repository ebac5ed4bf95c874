// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const node = "this-host"

// podRunner is scheduler and kubelet of a cluster with one node: each pod is a network
// namespace behind a veth pair. Pods of the suite's echo server run it; others are said to
// run, and do not.
type podRunner struct {
	t      *testing.T
	client kubernetes.Interface
	echo   string // the echo server's binary
	dir    string
	pods   map[types.UID]*pod
	count  int
}

type pod struct {
	namespace string
	cmd       *exec.Cmd // nil: nothing runs in it
}

// runPods runs the cluster's pods until the end of the test.
func runPods(t *testing.T, client kubernetes.Interface, echo string) {
	t.Helper()
	p := &podRunner{t: t, client: client, echo: echo, dir: t.TempDir(), pods: make(map[types.UID]*pod)}
	_, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{corev1.LabelHostname: node}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := p.step(ctx); err != nil && ctx.Err() == nil {
				t.Logf("pods: %v", err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		for uid := range p.pods {
			p.end(uid)
		}
	})
}

// step brings what runs to what is wanted.
func (p *podRunner) step(ctx context.Context) error {
	list, err := p.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	wanted := make(map[types.UID]bool)
	var errs []error
	for i := range list.Items {
		o := &list.Items[i]
		wanted[o.UID] = true
		switch {
		case o.DeletionTimestamp != nil && graceful(o) && time.Now().Before(o.DeletionTimestamp.Time):
			continue
		case o.DeletionTimestamp != nil:
			p.end(o.UID)
			now := int64(0)
			err = p.client.CoreV1().Pods(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &o.UID}})
		case o.Spec.NodeName == "":
			err = p.client.CoreV1().Pods(o.Namespace).Bind(ctx, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: o.Name, Namespace: o.Namespace, UID: o.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
		case p.pods[o.UID] == nil:
			err = p.begin(ctx, o)
		default:
			continue
		}
		// The list may be of a moment ago.
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("%s/%s: %w", o.Namespace, o.Name, err))
		}
	}
	for uid := range p.pods {
		if !wanted[uid] {
			p.end(uid)
		}
	}
	return errors.Join(errs...)
}

// graceful tells whether a pod goes on for as long as it may. Those of the suite, which have
// said nothing, do not.
func graceful(o *corev1.Pod) bool {
	return *o.DeletionGracePeriodSeconds != corev1.DefaultTerminationGracePeriodSeconds
}

func (p *podRunner) end(uid types.UID) {
	o := p.pods[uid]
	if o == nil {
		return
	}
	delete(p.pods, uid)
	if o.cmd != nil {
		_ = o.cmd.Process.Kill()
		_ = o.cmd.Wait()
	}
	if err := run("ip", "netns", "del", o.namespace); err != nil {
		p.t.Log(err)
	}
}

// begin makes a pod's network, runs what it runs, and says that it is ready.
func (p *podRunner) begin(ctx context.Context, o *corev1.Pod) error {
	files, err := p.secrets(ctx, o)
	if err != nil {
		return err // the Secret comes later, maybe
	}
	n := p.count
	p.count++
	address := fmt.Sprintf("10.244.%d.%d", 1+n/250, 1+n%250)
	made := &pod{namespace: fmt.Sprintf("pod%d", n)}
	device := fmt.Sprintf("veth%d", n)
	for _, command := range [][]string{
		{"ip", "netns", "add", made.namespace},
		{"ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", made.namespace},
		{"ip", "link", "set", device, "master", "br0", "up"},
		{"ip", "-n", made.namespace, "addr", "add", address + "/16", "dev", "eth0"},
		{"ip", "-n", made.namespace, "link", "set", "eth0", "up"},
		{"ip", "-n", made.namespace, "link", "set", "lo", "up"},
		{"ip", "-n", made.namespace, "route", "add", "default", "via", bridge},
	} {
		if err := run(command...); err != nil {
			return err
		}
	}
	p.pods[o.UID] = made
	if c := o.Spec.Containers[0]; strings.Contains(c.Image, "echo-basic") {
		log, err := os.Create(filepath.Join(p.dir, o.Namespace+"_"+o.Name+".log"))
		if err != nil {
			return err
		}
		defer func() { _ = log.Close() }()
		cmd := exec.Command("ip", "netns", "exec", made.namespace, p.echo)
		cmd.Env, cmd.Stdout, cmd.Stderr = environment(o, files), log, log
		if err := cmd.Start(); err != nil {
			return err
		}
		made.cmd = cmd
		if err := listens(ctx, net.JoinHostPort(address, echoPort(cmd.Env))); err != nil {
			return err
		}
	}
	return p.ready(ctx, o, address)
}

// echoPort is a port that the echo server listens on.
func echoPort(env []string) string {
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "TLS_SERVER_CERT=") }) {
		return "8443"
	}
	return "3000"
}

// listens waits until somebody does.
func listens(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// secrets writes the Secrets that the pod mounts to files, and returns where each mount is.
func (p *podRunner) secrets(ctx context.Context, o *corev1.Pod) (map[string]string, error) {
	mounts := make(map[string]string)
	for _, v := range o.Spec.Volumes {
		if v.Secret == nil {
			continue
		}
		s, err := p.client.CoreV1().Secrets(o.Namespace).Get(ctx, v.Secret.SecretName, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(p.dir, string(o.UID), v.Name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		for _, item := range v.Secret.Items {
			if err := os.WriteFile(filepath.Join(dir, item.Path), s.Data[item.Key], 0o600); err != nil {
				return nil, err
			}
		}
		for _, m := range o.Spec.Containers[0].VolumeMounts {
			if m.Name == v.Name {
				mounts[m.MountPath] = dir
			}
		}
	}
	return mounts, nil
}

// environment is the container's, with the paths of mounts as they are on this host.
func environment(o *corev1.Pod, mounts map[string]string) []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, e := range o.Spec.Containers[0].Env {
		value := e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			switch e.ValueFrom.FieldRef.FieldPath {
			case "metadata.name":
				value = o.Name
			case "metadata.namespace":
				value = o.Namespace
			}
		}
		for mount, dir := range mounts {
			if rest, ok := strings.CutPrefix(value, mount+"/"); ok {
				value = filepath.Join(dir, rest)
			}
		}
		env = append(env, e.Name+"="+value)
	}
	return env
}

func (p *podRunner) ready(ctx context.Context, o *corev1.Pod, address string) error {
	now, started := metav1.Now(), true
	o = o.DeepCopy()
	o.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}, StartTime: &now}
	for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		o.Status.Conditions = append(o.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	c := o.Spec.Containers[0]
	o.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: c.Name, Image: c.Image, Ready: true, Started: &started,
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}
	_, err := p.client.CoreV1().Pods(o.Namespace).UpdateStatus(ctx, o, metav1.UpdateOptions{})
	return err
}
