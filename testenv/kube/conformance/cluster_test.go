// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	bridge = "10.244.0.1" // the host's address among the pods

	pool      = "10.244.255.0/24" // of the Gateways' addresses
	apiServer = "https://127.0.0.1:16443"
	token     = "of-the-administrator"
	// patience is for what takes a few seconds on an idle machine.
	patience = 2 * time.Minute
)

// kube is a control plane.
type kube struct {
	dir        string // of its files and logs
	binary     string // testenv/kube/control, built
	kubeconfig string
	apiServer  *process
}

// startKube starts a control plane, and waits until it answers.
func startKube(t *testing.T, binary string) *kube {
	t.Helper()
	k := &kube{dir: t.TempDir(), binary: binary}
	k.kubeconfig = filepath.Join(k.dir, "kubeconfig")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	private := k.file(t, "sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	public := k.file(t, "sa.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	tokens := k.file(t, "tokens.csv", token+",admin,admin,system:masters\n")
	k.file(t, "kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, apiServer, filepath.Join(k.dir, "apiserver.crt"), token))

	const etcd = "http://127.0.0.1:12379"
	start(t, k.dir, "etcd", k.binary, "etcd", "--data-dir="+filepath.Join(k.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls=http://127.0.0.1:12380", "--initial-advertise-peer-urls=http://127.0.0.1:12380", "--initial-cluster=default=http://127.0.0.1:12380")
	k.apiServer = start(t, k.dir, "kube-apiserver", k.binary, "kube-apiserver", "--etcd-servers="+etcd,
		"--bind-address=127.0.0.1", "--advertise-address="+bridge, "--secure-port=16443", "--cert-dir="+k.dir,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+public, "--service-account-signing-key-file="+private,
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC", "--token-auth-file="+tokens, "--allow-privileged=true", "--endpoint-reconciler-type=none")
	k.wait(t)
	start(t, k.dir, "kube-controller-manager", k.binary, "kube-controller-manager", "--kubeconfig="+k.kubeconfig, "--bind-address=127.0.0.1", "--leader-elect=false",
		"--use-service-account-credentials=false", "--service-account-private-key-file="+private, "--kube-api-qps=200", "--kube-api-burst=400",
		"--controllers=deployment-controller,replicaset-controller,endpointslice-controller,namespace-controller,garbage-collector-controller,serviceaccount-controller")
	return k
}

func (k *kube) file(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(k.dir, name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// wait waits until the API server says that it is ready.
func (k *kube) wait(t *testing.T) {
	t.Helper()
	// Its certificate is made at its start.
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // this machine's own
	until(t, "the API server is ready", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, apiServer+"/readyz", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("it says %s", res.Status)
		}
		return nil
	})
}

// until waits until what returns nil.
func until(t *testing.T, name string, what func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := what(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting until %s: %v", name, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// process is a program that runs until the end of the test.
type process struct {
	t       *testing.T
	name    string
	file    string // of what it writes
	command []string
	cmd     *exec.Cmd // nil: it does not run
}

// start starts a program that is ended, and waited for, at the end of the test. If that
// fails, the end of what it wrote is shown.
func start(t *testing.T, dir, name string, command ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, file: filepath.Join(dir, name+".log"), command: command}
	p.start()
	t.Cleanup(func() {
		p.end(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("the end of what %s wrote:\n%s", name, p.log()[max(0, len(p.log())-8000):])
		}
	})
	return p
}

// start starts it, for the first time or again.
func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(p.command[0], p.command[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// end ends it by a signal, and waits for its end.
func (p *process) end(signal syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(signal)
	over := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	over.Stop()
	p.cmd = nil
}

// log is what it wrote.
func (p *process) log() string {
	data, err := os.ReadFile(p.file)
	if err != nil {
		p.t.Log(err)
	}
	return string(data)
}

// run runs a command that is to succeed.
func run(command ...string) error {
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
	}
	return nil
}
