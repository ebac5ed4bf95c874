package agent_test
import ("testing";"time";"bytes";"fmt";"golang.org/x/sync/errgroup";"github.com/spliceway/spliceway/testenv")
func TestZZBoth(t *testing.T) {
	r := startRelay(t)
	f := r.flow()
	var g errgroup.Group
	g.Go(func() error { _, e:=fillUp(f.Client); return e })
	g.Go(func() error { _, e:=fillUp(f.Backend); return e })
	if err:=g.Wait(); err!=nil {t.Fatal(err)}
	t0:=time.Now()
	testenv.Reset(f.Client); testenv.Reset(f.Backend)
	r.expectMetric("connections_open", 0)
	t.Log("both reset: ended after", time.Since(t0))
	t.Log(r.lineOf(f.Client.LocalAddr()))
}
func TestZZFlood(t *testing.T) {
	r := startRelay(t)
	for _, n := range []int{100_000, 300_000, 1_000_000, 5_000_000} {
	c := r.dial(r.net.Clients[0])
	go func(){ _, err := c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), n/16)); t.Log(n, "write", err) }()
	data, end := seen(c)
	t.Log(n, len(data), end, r.lineOf(c.LocalAddr())["outcome"])
	}
}
func TestZZFiles(t *testing.T) {
	n := testenv.MustNetwork(t, testenv.NetworkOptions{})
	l, target := listenOn(t, n.Backends[0])
	r := start(t, n, "limits: {openFiles: 1024}\ntimeouts: {connect: 1s}\nendpoints:\n"+endpoint("a", sni("a.test"), target))
	before := r.held()
	var flows []*testenv.Flow
	for range 500 { flows = append(flows, r.open(n.Clients[0], l, "a.test")) }
	for range 40 {
		c := r.dial(n.Clients[0])
		c.Write(hello(t, "a.test"))
	}
	time.Sleep(2*time.Second)
	fmt.Println(r.metric("accept_errors_total"), r.metric("connections_open"), r.metric(`connections_total{outcome="dial_failed"}`))
	if err := testenv.ExchangePair(short(t), flows[0].Client, flows[0].Backend, 1, 20<<20, 20<<20); err != nil { t.Error(err) }
	for _, f := range flows { f.Close() }
	f := func() bool { c := r.dial(n.Clients[0]); c.Write(hello(t, "a.test")); u, err := testenv.Accept(short(t), l); if err!=nil {return false}; u.Close(); return true}
	t.Log(f())
	ls := r.Log().Lines()
	for _, x := range ls { if !says("connection")(x) { fmt.Println(x[:min(len(x),300)]) } }
	_ = before
}
