// Package html writes runs of scenarios as one HTML page that stands by itself: style, pictures and the few lines of script are in it, and it
// asks no server for anything. So it can be mailed, kept as an artifact of a CI job, and opened from a folder.
//
//	err := html.Write(file, run)                  // one run
//	err = html.WriteAll(file, []report.Run{a, b}) // several, with an overview
//
// The page follows the reader's choice of light or dark, or the switch on it, and fits telephones and paper. All that a lab has printed is
// shown as text; the page's own policy (Content-Security-Policy) forbids every script but its own, and every request. Run.Topology alone is
// taken as it is: it must come from package graph.
package html
