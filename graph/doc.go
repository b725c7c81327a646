// Package graph draws the topology of a lab: the networks, the router and what it lets pass, the services, the ingress, the nodes with their
// agents and TPMs, and the CA that certified each TPM's EK. It draws a plan alone, or one of a running lab with the states of its parts.
//
//	g := graph.Of(p, nil)     // a plan
//	g = graph.Of(p, &status)  // a running lab
//	err := g.SVG(file)        // a picture, light and dark, for a page or a browser
//	err = g.Mermaid(file)     // for Markdown that draws Mermaid
//	err = g.DOT(file)         // for Graphviz
//
// Of more than a dozen nodes, those that are alike are drawn as one, with their number.
package graph
