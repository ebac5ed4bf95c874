package loader
import ("testing";"net/netip";"sync";"sync/atomic";"errors";"net")
func TestTmpGap(t *testing.T) {
	enterNamespace(t, "203.0.113.0/24")
	s := openSteering(t)
	la, lb := listen(t, "203.0.113.0:443"), listen(t, "203.0.113.1:443")
	a, b := fdOf(t, la), fdOf(t, lb)
	for _, l := range []*net.TCPListener{la, lb} { go func() { for { c, err := l.Accept(); if err != nil { return }; c.Close() } }() }
	low, high := netip.MustParsePrefix("203.0.113.0/25"), netip.MustParsePrefix("203.0.113.128/25")
	s.Add(prefix4, 443, a)
	var stop atomic.Bool
	var changes sync.WaitGroup
	n := 0
	changes.Go(func() {
		for !stop.Load() {
			n++
			err := errors.Join(s.Add(prefix4, 443, b),
				s.Add(low, 443, a), s.Add(high, 443, a), s.Remove(prefix4, 443),
				s.Add(prefix4, 443, a), s.Remove(low, 443), s.Remove(high, 443))
			if err != nil { t.Error(err); return }
		}
	})
	bad := 0
	for range 30000 {
		c, err := net.DialTimeout("tcp", "203.0.113.7:443", patience)
		if err != nil { bad++; if bad < 3 {t.Log(err)}; continue }
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	stop.Store(true); changes.Wait()
	t.Log(bad, "bad; changes", n, counters(t, s))
}
