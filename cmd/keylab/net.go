package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/netlab"
)

func newNet(s streams) *cobra.Command {
	var f labFlag
	var output string
	c := &cobra.Command{
		Use:   "net [LAB]",
		Short: "Show a running lab's links, routes, router rules and counters",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			l, err := f.open(args)
			if err != nil {
				return err
			}
			n, err := l.Network(c.Context())
			if err != nil {
				return explain(l, err)
			}
			if output == "json" {
				return writeJSON(s.out, n)
			}
			return printNetwork(s, n)
		},
	}
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func printNetwork(s streams, n control.Network) error {
	var rows [][]string
	for _, h := range n.Hosts {
		for _, l := range h.Links {
			up := "up"
			if !l.Up {
				up = "down"
			}
			for _, a := range l.Addresses {
				rows = append(rows, []string{h.Name, l.Name, l.Network, up, a.String(), l.MAC})
			}
		}
	}
	if err := table(s.out, "HOST|LINK|NETWORK|STATE|ADDRESS|MAC", rows); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	packets := map[string]netlab.Counter{}
	for _, c := range n.Counters {
		packets[c.Name] = c
	}
	rows = nil
	for _, r := range n.Rules {
		rows = append(rows, []string{r.Name, r.From.String(), r.To.String(), r.Protocol, port(r.Port), fmt.Sprint(packets[r.Name].Packets)})
		delete(packets, r.Name)
	}
	if err := table(s.out, "ROUTER RULE|FROM|TO|PROTOCOL|PORT|CONNECTIONS", rows); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	rows = nil
	for _, name := range slices.Sorted(maps.Keys(packets)) {
		rows = append(rows, []string{name, fmt.Sprint(packets[name].Packets), fmt.Sprint(packets[name].Bytes)})
	}
	if err := table(s.out, "ROUTER COUNTER|PACKETS|BYTES", rows); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	rows = nil
	for _, host := range slices.Sorted(maps.Keys(n.Routes)) {
		h := n.Ingress.ByHost[host]
		rows = append(rows, []string{host, n.Routes[host], fmt.Sprint(n.Arrivals[n.Routes[host]]), fmt.Sprint(h.Connections), fmt.Sprint(h.Errors)})
	}
	if err := table(s.out, "INGRESS HOSTNAME|AGENT|ARRIVED AT AGENT|FORWARDED|ERRORS", rows); err != nil {
		return err
	}
	fmt.Fprint(s.out, "refused:")
	refused := map[string]uint64{}
	for reason, count := range n.Ingress.Refused {
		refused[string(reason)] = count
	}
	for _, reason := range slices.Sorted(maps.Keys(refused)) {
		fmt.Fprintf(s.out, " %s %d", reason, refused[reason])
	}
	fmt.Fprint(s.out, "\nDNS answers:")
	for _, code := range slices.Sorted(maps.Keys(n.DNS)) {
		fmt.Fprintf(s.out, " %s %d", code, n.DNS[code])
	}
	fmt.Fprintln(s.out)
	return nil
}
