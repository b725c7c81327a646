package netlab
import ("testing";"net/netip";"fmt";"time";"sync";"context";"io")
func TestScaleTry(t *testing.T) {
	const N=400
	topo := testTopology(0)
	topo.Networks[1].Prefix = netip.MustParsePrefix("198.18.20.0/22")
	for i := range N { a := netip.AddrFrom4([4]byte{198,18,byte(21+i/200),byte(10+i%200)}); topo.Hosts = append(topo.Hosts, Host{Name: fmt.Sprintf("n%d",i), Interfaces: []Interface{{Network:"cluster",Addresses:[]netip.Addr{a}}}, Routes: []Route{{To: services.Prefix, Via: routerAtClu}}}) }
	// verifier's routes cover the wider prefix
	for i := range topo.Hosts { for j := range topo.Hosts[i].Routes { if topo.Hosts[i].Routes[j].To==cluster.Prefix { topo.Hosts[i].Routes[j].To=topo.Networks[1].Prefix } } }
	t0 := time.Now()
	l := buildLab(t, topo)
	t.Log("build", time.Since(t0))
	serveOn(t, l.Host("registrar"), ":8890"); serveOn(t, l.Host("ingress"), ":443")
	t0 = time.Now()
	for round := range 2 {
	var wg sync.WaitGroup
	var mu sync.Mutex; fails := map[string]int{}; worst := time.Duration(0)
	for i := range N { wg.Go(func(){ for _, a := range []string{"198.18.10.11:8890","198.18.20.200:443"} {
		s := time.Now()
		ctx, c := context.WithTimeout(context.Background(), 10*time.Second); defer c()
		conn, err := l.Host(fmt.Sprintf("n%d",i)).DialContext(ctx,"tcp",a)
		if err == nil { io.ReadAll(conn); conn.Close() }
		mu.Lock(); if err != nil { fails[err.Error()]++ }; worst = max(worst, time.Since(s)); mu.Unlock() } }) }
	wg.Wait()
	t.Log(round, time.Since(t0), "worst", worst, len(fails)); n:=0; for k := range fails { t.Log(k); n++; if n>3 {break} }
	}
}
