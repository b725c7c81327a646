// Package report holds the results of a lab's checks and writes them for people and for machines.
//
// A [Result] is a list of [Check]s, each of which passed or failed; there is no third status, because a check that could not run proves
// nothing and counts as failed. For the same reason a result without any check has not passed.
//
//	err := report.WriteTable(os.Stdout, result, report.TableOptions{Color: isTerminal}) // people
//	err = report.WriteJSON(file, result)                                                // programs
//	err = report.WriteJUnit(file, result)                                               // GitLab, Jenkins, GitHub test reporters
//
// Evidence and errors may hold anything, also what a program under test printed: characters that would steer a terminal or break XML are
// written as escapes.
package report
